//! Generated packets and states, and what a trace says of them.

use crate::both::{MAX_FLOWS, counts, expected_code, on_both, tick};
use lb_common::{Fragment, FragmentKey, Reason, ReasonCount, Step, StepKind, Telling, Traffic, maps};
use lb_ctl::datapath::SharedMaps;
use lb_ctl::datapath::test_run::HookPoint;
use lb_ctl::datapath::tracer::Tracer;
use lb_memory::Image;
use lb_memory::generator::{self, Case, World};
use lb_memory::trial::{Interfaces, Met, Passage, Trial};
use lb_tests::kernel::{self, Flows, Kernel};
use lb_tests::memory::Memory;
use lb_tests::needs_datapath;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use proptest::test_runner::{Config, FileFailurePersistence, RngSeed, TestCaseError, TestRunner};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Cases of the differential test: in CI, and where time does not matter.
const CASES: u32 = 5_000;
const FULL_CASES: u32 = 100_000;
const REGRESSIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/proptest-regressions/differential.txt");

type Fragments<A> = BTreeMap<FragmentKey<A>, Fragment>;

/// What a node remembers.
#[derive(Clone, Default)]
struct Tables {
    flows4: Flows<[u8; 4]>,
    fragments4: Fragments<[u8; 4]>,
    flows6: Flows<[u8; 16]>,
    fragments6: Fragments<[u8; 16]>,
}

impl Tables {
    fn of_host(tables: &Memory) -> Self {
        Self {
            flows4: tables.flows4.contents(),
            fragments4: tables.flows4.fragments(),
            flows6: tables.flows6.contents(),
            fragments6: tables.flows6.fragments(),
        }
    }

    fn of_kernel(kernel: &mut Kernel) -> Self {
        Self {
            flows4: kernel.flows(maps::FLOWS4),
            fragments4: kernel.entries(maps::FRAGMENTS4),
            flows6: kernel.flows(maps::FLOWS6),
            fragments6: kernel.entries(maps::FRAGMENTS6),
        }
    }

    /// Writes into the kernel, which holds `self`, what `new` says.
    fn rewrite(&self, kernel: &mut Kernel, new: &Self) {
        kernel.rewrite_flows(maps::FLOWS4, &self.flows4, &new.flows4);
        kernel.rewrite_entries(maps::FRAGMENTS4, &self.fragments4, &new.fragments4);
        kernel.rewrite_flows(maps::FLOWS6, &self.flows6, &new.flows6);
        kernel.rewrite_entries(maps::FRAGMENTS6, &self.fragments6, &new.fragments6);
    }

    /// Compares what the kernel holds (`self`) with what the host holds.
    fn compare(&self, host: &Self) -> Result<(), String> {
        equal("IPv4 flows", &self.flows4, &host.flows4)?;
        equal("IPv4 fragments", &self.fragments4, &host.fragments4)?;
        equal("IPv6 flows", &self.flows6, &host.flows6)?;
        equal("IPv6 fragments", &self.fragments6, &host.fragments6)
    }
}

/// The kernel's side of the differential test.
struct Differential {
    kernel: Kernel,
    interfaces: Interfaces,
    /// What the kernel's configuration maps hold.
    image: Image,
    /// What it remembers.
    tables: Tables,
    met: Met,
    /// Traces each packet before it is run.
    tracer: Option<Tracer>,
}

/// Maps that no program writes, and that are large.
const LARGE: [&str; 3] = [maps::GATE, maps::SLOTS, maps::BACKENDS];

/// The steps without those that tell whether the gate is closed. It is never closed again, so the kernel's may be open for what an earlier
/// case knew: then it is found that the packet belongs to no flow, and its destination to nobody.
fn behind_the_gate(steps: &[Step]) -> Vec<Step> {
    let at_the_gate = |step: &&Step| {
        let kinds = [StepKind::GateClosed, StepKind::FlowUnknown];
        kinds.iter().any(|kind| step.kind == *kind as u8) || (step.kind == StepKind::Owned as u8 && step.detail == 0)
    };
    let is_left_alone = steps.last().is_some_and(|last| last.reason == Reason::NotOurs as u8);
    steps.iter().filter(|step| !is_left_alone || !at_the_gate(step)).copied().collect()
}

impl Differential {
    fn new(interfaces: Interfaces, kernel: Kernel, image: Image) -> Self {
        Self { kernel, interfaces, image, tables: Tables::default(), met: Met::default(), tracer: None }
    }

    /// Every byte of the maps; of those that no program writes and that are large, with every 64th packet.
    fn dump(&self) -> BTreeMap<&'static str, Vec<u8>> {
        let is_whole = self.met.packets % 64 == 1;
        let specs = maps::MAPS.iter().filter(|spec| is_whole || !LARGE.contains(&spec.name));
        specs.map(|spec| (spec.name, self.kernel.dump(spec))).collect()
    }

    /// Traces a packet, before it is run: it has the fate that it has on the host, by the same steps, and changes no map.
    fn trace(&mut self, passage: &Passage) -> Result<(), String> {
        let before = self.dump();
        let Some(tracer) = &mut self.tracer else { return Ok(()) };
        let Passage { hook, ifindex, before: frame, verdict, after, steps } = passage;
        tracer.forget().map_err(|error| error.to_string())?;
        let told = tracer.run(kernel::point(*hook), *ifindex, frame).map_err(|error| error.to_string())?;
        let context = || {
            format!("{hook:?} by {ifindex}: {verdict:?}\nin   {frame:02x?}\nhost {steps:#?}\nbpf  {:#?}", told.steps)
        };
        equal("the traced return code", &told.ran.code, &expected_code(*hook, *ifindex, *verdict))
            .map_err(|error| error + &context())?;
        equal("the traced bytes", &told.ran.frame, after).map_err(|error| error + &context())?;
        if behind_the_gate(&told.steps) != behind_the_gate(steps) {
            return Err(format!("the steps differ: {}", context()));
        }
        let last = told.steps.last().filter(|step| step.kind == StepKind::Verdict as u8);
        equal("the reason told", &last.and_then(|step| Reason::from_number(step.reason)), &Some(verdict.reason))?;
        for (name, bytes) in self.dump() {
            if before[name] != bytes {
                return Err(format!("the trace has changed the map {name}: {}", context()));
            }
        }
        Ok(())
    }

    fn rewrite(&mut self, image: &Image, tables: Tables) {
        self.kernel.rewrite(&self.image, image);
        self.image = image.clone();
        self.tables.rewrite(&mut self.kernel, &tables);
        self.tables = tables;
    }

    /// Runs one case on both. `Err` says how they differ, or what the oracle objects to.
    fn run(&mut self, case: &Case) -> Result<(), String> {
        let now = tick();
        let mut trial = Trial::new(self.interfaces, case, now);
        trial.tables.tells.set(self.tracer.is_some());
        self.rewrite(&self.interfaces.image(case.world), Tables::default());
        self.kernel.revalidated_in(if case.revalidated { now } else { 0 });
        self.kernel.set_budgets(case.budget(now));
        self.kernel.set_tellings(Telling::NEW);
        self.kernel.listen(true);
        // Of a case that ended early.
        self.kernel.take_events();
        trial.tables.listened.set(true);
        let outcome = self.steps(&mut trial, case);
        // Whatever happened: what is there now is what the next case takes away.
        self.tables = Tables::of_kernel(&mut self.kernel);
        outcome?;
        self.tables.compare(&Tables::of_host(&trial.tables))
    }

    fn steps(&mut self, trial: &mut Trial, case: &Case) -> Result<(), String> {
        let mut counted = self.kernel.reasons();
        let traffic = self.traffic();
        for step in &case.steps {
            let (passages, judged) = trial.step(step);
            if passages.is_empty() {
                // A change of the world.
                self.tables = Tables::of_kernel(&mut self.kernel);
                self.rewrite(&trial.tables.image.clone(), Tables::of_host(&trial.tables));
            }
            for passage in &passages {
                self.met.add(passage);
                self.trace(passage)?;
                self.compare(passage, &mut counted)?;
            }
            equal("the events", &self.kernel.take_events(), &trial.tables.events.take())?;
            judged.map_err(|fault| format!("the oracle: {fault}"))?;
        }
        for (id, (before, now)) in traffic.iter().zip(self.traffic()).enumerate() {
            let id = id as u32;
            for (what, before, now, host) in [
                ("service", before[0], now[0], &trial.tables.services),
                ("backend", before[1], now[1], &trial.tables.backends),
            ] {
                let host = host.borrow().get(&id).copied().unwrap_or_default();
                equal(&format!("the counters of {what} {id}"), &difference(now, before), &host)?;
            }
        }
        Ok(())
    }

    /// Runs a packet in the kernel as it ran on the host: return code, bytes, the reason's counter and no other.
    fn compare(&mut self, passage: &Passage, counted: &mut BTreeMap<Reason, ReasonCount>) -> Result<(), String> {
        let Passage { hook, ifindex, before, verdict, after, .. } = passage;
        let (code, out) = self.kernel.run(*hook, *ifindex, before);
        let context =
            || format!("{hook:?} by {ifindex}: {verdict:?}\nin   {before:02x?}\nhost {after:02x?}\nbpf  {out:02x?}");
        equal("the return code", &code, &expected_code(*hook, *ifindex, *verdict)).map_err(|e| e + &context())?;
        equal("the bytes", &out, after).map_err(|error| error + &context())?;
        if counts(*hook, *verdict) {
            let count = counted.entry(verdict.reason).or_default();
            count.packets += 1;
            count.bytes += before.len() as u64;
        }
        equal("the counters", &self.kernel.reasons(), counted).map_err(|error| error + &context())
    }

    /// Counters of the service ports and backends there are, by id.
    fn traffic(&mut self) -> Vec<[Traffic; 2]> {
        let backends = self.image.backends.keys().copied();
        let ids = self.image.services.values().map(|service| service.id).chain(backends).max().map_or(0, |id| id + 1);
        let services = self.kernel.traffic(maps::SERVICE_STATS, ids as usize);
        services.into_iter().zip(self.kernel.traffic(maps::BACKEND_STATS, ids as usize)).map(|(a, b)| [a, b]).collect()
    }
}

fn difference(now: Traffic, before: Traffic) -> Traffic {
    Traffic {
        connections: now.connections - before.connections,
        packets: now.packets - before.packets,
        bytes: now.bytes - before.bytes,
        reply_packets: now.reply_packets - before.reply_packets,
        reply_bytes: now.reply_bytes - before.reply_bytes,
    }
}

fn equal<T: PartialEq + Debug>(what: &str, kernel: &T, host: &T) -> Result<(), String> {
    if kernel == host { Ok(()) } else { Err(format!("{what} differ: the kernel says {kernel:?}, the host {host:?}\n")) }
}

fn number(variable: &str) -> Option<u32> {
    let number = std::env::var(variable).ok()?;
    Some(number.parse().unwrap_or_else(|_| panic!("{variable}={number} is no number")))
}

#[test]
fn generated_packets_and_states_host_and_kernel_alike() {
    needs_datapath!();
    // A difference is told after the namespace is gone: it is final, where other tests are repeated when a tick ends.
    let failure = Arc::new(Mutex::new(None));
    let told = failure.clone();
    on_both(move |both| {
        let full = std::env::var_os("LB_FULL").is_some();
        let cases = number("LB_CASES").unwrap_or(if full { FULL_CASES } else { CASES });
        let seed = number("LB_SEED").unwrap_or(2026);
        let config = Config {
            cases,
            rng_seed: RngSeed::Fixed(seed.into()),
            failure_persistence: Some(Box::new(FileFailurePersistence::Direct(REGRESSIONS))),
            ..Config::default()
        };
        let interfaces = Interfaces { uplink: both.uplink, inside: both.inside };
        let image = interfaces.image(World::default());
        let kernel = Kernel::load(&image, MAX_FLOWS);
        let differential = RefCell::new(Differential::new(interfaces, kernel, image));
        let started = Instant::now();
        let outcome = TestRunner::new(config).run(&generator::cases(), |case| {
            // The two read their clocks one after the other: a case that a tick ends in says nothing.
            loop {
                let began = tick();
                let outcome = differential.borrow_mut().run(&case);
                if tick() == began {
                    return outcome.map_err(TestCaseError::fail);
                }
            }
        });
        if let Err(error) = outcome {
            let phase = tick() % 4;
            let text = format!("{error}\nkept in {REGRESSIONS}; LB_SEED={seed}; now in tick {phase} of four");
            *told.lock().expect("one thread at a time") = Some(text);
            return;
        }
        let (met, took) = (&differential.borrow().met, started.elapsed().as_secs_f64());
        println!("{cases} cases, seed {seed}: {} packets in {took:.1} s, reasons {:?}", met.packets, met.reasons);
        met.check();
    });
    let failure = failure.lock().expect("one thread at a time").take();
    assert!(failure.is_none(), "{}", failure.unwrap_or_default());
}

/// Cases of the test of traces: in CI, and where time does not matter. A case is several packets.
const TRACED_CASES: u32 = 60;
const FULL_TRACED_CASES: u32 = 3700;

#[test]
fn a_trace_agrees_with_the_packets_fate_and_changes_nothing() {
    needs_datapath!();
    let failure = Arc::new(Mutex::new(None));
    let told = failure.clone();
    on_both(move |both| {
        let full = std::env::var_os("LB_FULL").is_some();
        let cases = number("LB_CASES").unwrap_or(if full { FULL_TRACED_CASES } else { TRACED_CASES });
        let seed = number("LB_SEED").unwrap_or(2027);
        let config =
            Config { cases, rng_seed: RngSeed::Fixed(seed.into()), failure_persistence: None, ..Config::default() };
        let pins = tempfile::tempdir().expect("a directory");
        unshare(CloneFlags::CLONE_NEWNS).expect("mounts of our own");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("mounts of our own");
        mount(Some("bpf"), pins.path(), Some("bpf"), MsFlags::empty(), None::<&str>).expect("a BPF file system");
        let interfaces = Interfaces { uplink: both.uplink, inside: both.inside };
        let image = interfaces.image(World::default());
        let kernel = Kernel::load_pinned(&image, MAX_FLOWS, pins.path());
        let shared = SharedMaps::new(pins.path().to_owned(), pins.path().to_owned());
        let mut tracer = Tracer::load(lb_ctl::OBJECT.expect("it is built"), &shared).expect("the instance is loaded");
        for point in [HookPoint::Xdp, HookPoint::Ingress, HookPoint::Egress] {
            assert_eq!(tracer.tag(point).expect("a tag"), kernel.tag(point), "{point:?}");
        }
        let mut differential = Differential::new(interfaces, kernel, image);
        differential.tracer = Some(tracer);
        let differential = RefCell::new(differential);
        let started = Instant::now();
        let outcome = TestRunner::new(config).run(&generator::cases(), |case| {
            loop {
                let began = tick();
                let outcome = differential.borrow_mut().run(&case);
                if tick() == began {
                    return outcome.map_err(TestCaseError::fail);
                }
            }
        });
        let (met, took) = (&differential.borrow().met, started.elapsed().as_secs_f64());
        println!(
            "{cases} cases, seed {seed}: {} packets traced in {took:.1} s, reasons {:?}",
            met.packets, met.reasons
        );
        // Where it was not mounted there is nothing to take away.
        nix::mount::umount2(pins.path(), nix::mount::MntFlags::MNT_DETACH).ok();
        if let Err(error) = outcome {
            *told.lock().expect("one thread at a time") = Some(format!("{error}\nLB_SEED={seed}"));
            return;
        }
        assert!(!full || met.packets >= 10_000, "only {} packets", met.packets);
    });
    let failure = failure.lock().expect("one thread at a time").take();
    assert!(failure.is_none(), "{}", failure.unwrap_or_default());
}
