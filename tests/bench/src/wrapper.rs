//! Runs a program many times on packets of many flows, by the wrapper in [`lb_yardsticks`].

use anyhow::{Context, bail};
use aya::maps::{Array, HashMap, MapData, PerCpuArray, ProgramArray};
use aya::programs::{
    ProgramFd, SchedClassifier, TcAttachType, TestRun, TestRunAttrs, TestRunOptions, TestRunResult, Xdp, XdpMode,
};
use aya::{Ebpf, EbpfLoader};
use lb_common::maps;
use lb_yardsticks::{Control, HEAD, NOTES, PLACES, Place, Served, WINDOW, WORDS_AT};
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hook {
    /// XDP
    Xdp,
    /// TC, as at TCX ingress.
    Tc,
}

impl Hook {
    /// As tables show it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Hook::Xdp => "XDP",
            Hook::Tc => "TC",
        }
    }
}

/// The packets of a run.
#[derive(Clone, Debug)]
pub(crate) struct Packets {
    /// One of them.
    pub(crate) frame: Vec<u8>,
    /// What differs from packet to packet.
    pub(crate) place: Place,
    /// How many flows they belong to: a power of two, of which every flow is met once before one is met again; or zero: each
    /// packet belongs to another flow.
    pub(crate) flows: u32,
    /// The number of the first flow.
    pub(crate) first: u32,
    /// How many addresses, from that of [`Packets::frame`] on, are taken at random as the one that stays.
    pub(crate) services: u32,
}

/// What came of a run.
pub(crate) struct Run {
    /// Nanoseconds a packet, of each window of [`WINDOW`] packets.
    pub(crate) windows: Vec<f64>,
    /// The return code of the last packet.
    pub(crate) verdict: u32,
    /// The last packet as it left.
    pub(crate) frame: Vec<u8>,
}

/// The loaded wrapper and yardsticks.
pub(crate) struct Wrapper {
    ebpf: Ebpf,
}

impl Wrapper {
    /// Loads the object; its tables have the sizes that the product's have for `max_flows`.
    pub(crate) fn load(object: &Path, max_flows: u32) -> anyhow::Result<Self> {
        let bytes = fs::read(object)
            .with_context(|| format!("cannot read {}: `cargo xtask bench` builds it", object.display()))?;
        let mut loader = EbpfLoader::new();
        for (name, ours) in [
            ("FLOWS", maps::FLOWS4),
            ("PAIRS", maps::FLOWS4),
            ("BORN", maps::FLOWS4),
            ("RECORDS", maps::SERVICES),
            ("PLACES", maps::SERVICES),
            ("MEMBERS", maps::SLOTS),
            ("TALLIES", maps::SERVICE_STATS),
        ] {
            loader.map_max_entries(name, maps::entries_for(ours, max_flows));
        }
        let mut ebpf = loader.load(&bytes).context("the yardsticks do not load")?;
        for (name, program) in ebpf.programs_mut() {
            let done = match program {
                aya::programs::Program::Xdp(program) => program.load(),
                aya::programs::Program::SchedClassifier(program) => program.load(),
                _ => bail!("the yardstick {name} is of a kind that has no place here"),
            };
            done.with_context(|| format!("the kernel refuses the yardstick {name}"))?;
        }
        Ok(Self { ebpf })
    }

    /// The yardstick of this name on a hook: `nothing`, `lru` and so on.
    pub(crate) fn yardstick(&self, hook: Hook, name: &str) -> anyhow::Result<ProgramFd> {
        let prefix = if hook == Hook::Xdp { "xdp" } else { "tc" };
        let name = format!("{prefix}_{name}");
        let program = self.ebpf.program(&name).with_context(|| format!("there is no yardstick {name}"))?;
        Ok(program.fd()?.try_clone()?)
    }

    /// A map of the yardsticks.
    pub(crate) fn map(&self, name: &str) -> anyhow::Result<MapData> {
        let map = self.ebpf.map(name).with_context(|| format!("the object has no map {name}"))?;
        let aya::maps::Map::LruHashMap(data) = map else { bail!("the map {name} is no LRU hash") };
        Ok(MapData::from_id(data.info()?.id())?)
    }

    fn control(&mut self) -> anyhow::Result<Array<&mut MapData, Control>> {
        Ok(Array::try_from(self.ebpf.map_mut("CONTROL").context("the object has no map CONTROL")?)?)
    }

    /// Runs `program` on `count` packets that came in by the interface `ifindex` of the calling thread's namespace.
    pub(crate) fn run(
        &mut self,
        hook: Hook,
        program: &ProgramFd,
        ifindex: u32,
        packets: &Packets,
        count: u32,
    ) -> anyhow::Result<Run> {
        let name = if hook == Hook::Xdp { "XDP_TARGET" } else { "TC_TARGET" };
        let map = self.ebpf.map_mut(name).with_context(|| format!("the object has no map {name}"))?;
        ProgramArray::try_from(map)?.set(0, program, 0).context("the wrapper cannot call the program")?;
        self.control()?.set(0, packets.control(), 0)?;
        let mut frame = vec![0; packets.frame.len() + 64];
        let result = self.test_run(hook, ifindex, packets, count, &mut frame)?;
        frame.truncate(result.data_size_out as usize);
        Ok(Run { windows: self.windows(count)?, verdict: result.return_value, frame })
    }

    fn test_run(
        &mut self,
        hook: Hook,
        ifindex: u32,
        packets: &Packets,
        repeat: u32,
        out: &mut [u8],
    ) -> anyhow::Result<TestRunResult> {
        let options = |context, out| TestRunOptions {
            data_in: Some(&packets.frame),
            data_out: Some(out),
            ctx_in: Some(context),
            repeat,
            ..TestRunOptions::new()
        };
        let ran = match hook {
            Hook::Xdp => {
                // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
                let mut context = [0; 24];
                context[4..8].copy_from_slice(&(packets.frame.len() as u32).to_ne_bytes());
                context[12..16].copy_from_slice(&ifindex.to_ne_bytes());
                let program: &Xdp = self.ebpf.program("xdp_wrapper").context("no wrapper")?.try_into()?;
                program.test_run(options(&context, out))
            }
            Hook::Tc => {
                // `struct __sk_buff`: ifindex is its eleventh word.
                let mut context = [0; 192];
                context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
                let program: &SchedClassifier = self.ebpf.program("tc_wrapper").context("no wrapper")?.try_into()?;
                program.test_run(options(&context, out))
            }
        };
        ran.context("the kernel does not run the wrapper")
    }

    /// Attaches a yardstick to an interface of the calling thread's namespace, for as long as this lives.
    pub(crate) fn attach(&mut self, name: &str, interface: &str) -> anyhow::Result<()> {
        let program = self.ebpf.program_mut(name).with_context(|| format!("there is no yardstick {name}"))?;
        let program: &mut Xdp = program.try_into()?;
        program.attach(interface, XdpMode::Driver).with_context(|| format!("cannot attach {name} to {interface}"))?;
        Ok(())
    }

    /// Attaches `tc_serve` to both pods' interfaces of the calling thread's namespace, for as long as this lives.
    pub(crate) fn serve(&mut self, served: Served, interfaces: [&str; 2]) -> anyhow::Result<()> {
        let mut map: Array<_, Served> = Array::try_from(self.ebpf.map_mut("SERVED").context("no map SERVED")?)?;
        map.set(0, served, 0)?;
        let program: &mut SchedClassifier = self.ebpf.program_mut("tc_serve").context("no tc_serve")?.try_into()?;
        for interface in interfaces {
            let attached = program.attach(interface, TcAttachType::Ingress);
            attached.with_context(|| format!("cannot attach tc_serve to {interface}"))?;
        }
        Ok(())
    }

    /// Names the interface that `xdp_relay` sends by.
    pub(crate) fn relay_to(&mut self, ifindex: u32) -> anyhow::Result<()> {
        let mut out: Array<_, u32> = Array::try_from(self.ebpf.map_mut("OUT").context("no map OUT")?)?;
        Ok(out.set(0, ifindex, 0)?)
    }

    /// Enters records of so many Services on port 80 of addresses from `first` on, for `xdp_opened_sought` and `xdp_opened_known`.
    pub(crate) fn enter_records(&mut self, first: Ipv4Addr, services: u32) -> anyhow::Result<()> {
        /// Members of each, as the product's have them.
        const MEMBERS: u64 = 8;
        for number in 0..services {
            let bits = first.to_bits() + number;
            let address = u32::from_ne_bytes(Ipv4Addr::from_bits(bits).octets());
            // Address and port as they lie in the frame, in one word (`Frame::service`).
            let key = u64::from(address) | u64::from(80_u16.to_be()) << 32 | u64::from(lb_common::TCP) << 48;
            let base = u64::from(number) * MEMBERS;
            let map = self.ebpf.map_mut("RECORDS").context("no map RECORDS")?;
            let mut records: HashMap<_, u64, [u64; 4]> = map.try_into()?;
            records.insert(key, [base, u64::from(number), 0, 0], 0)?;
            let map = self.ebpf.map_mut("PLACES").context("no map PLACES")?;
            let mut places: Array<_, [u64; 8]> = map.try_into()?;
            places.set(bits & PLACES, [base, 0, 0, 0, 0, 0, 0, 0], 0)?;
        }
        Ok(())
    }

    /// Frames that arrived where `xdp_count` is attached.
    pub(crate) fn arrived(&mut self) -> anyhow::Result<u64> {
        // Packets and bytes.
        let map: PerCpuArray<_, [u64; 2]> = PerCpuArray::try_from(self.ebpf.map_mut("STATS").context("no map STATS")?)?;
        Ok(map.get(&0, 0)?.iter().map(|count| count[0]).sum())
    }

    /// Sends real frames by the interface `ifindex` of the calling thread's namespace. The checksum in the frame's IPv4 header
    /// must be that of addresses of zero, where they change from packet to packet.
    pub(crate) fn send(&mut self, ifindex: u32, packets: &Packets, count: u32) -> anyhow::Result<Vec<f64>> {
        /// As a NIC's driver would hand them on (`NAPI_POLL_WEIGHT`).
        const BATCH: u32 = 64;
        let program = self.yardstick(Hook::Xdp, "send")?;
        let map = self.ebpf.map_mut("XDP_TARGET").context("the object has no map XDP_TARGET")?;
        ProgramArray::try_from(map)?.set(0, &program, 0).context("the wrapper cannot call the program")?;
        self.control()?.set(0, Control { ifindex, ..packets.control() }, 0)?;
        let options = TestRunOptions {
            data_in: Some(&packets.frame),
            repeat: count,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        };
        let wrapper: &Xdp = self.ebpf.program("xdp_wrapper").context("no wrapper")?.try_into()?;
        wrapper.test_run(options).context("the kernel does not run the generator")?;
        self.windows(count)
    }

    /// The windows of a run of `count` packets.
    fn windows(&mut self, count: u32) -> anyhow::Result<Vec<f64>> {
        let times: Array<_, u64> = Array::try_from(self.ebpf.map_mut("TIMES").context("no map TIMES")?)?;
        let notes = count.div_ceil(WINDOW).min(NOTES);
        let times: Vec<u64> = (0..notes).map(|note| times.get(&note, 0)).collect::<Result<_, _>>()?;
        let windows = times.windows(2).map(|pair| pair[1].saturating_sub(pair[0]) as f64 / f64::from(WINDOW));
        // The first is cold.
        Ok(windows.skip(1).collect())
    }
}

impl Packets {
    fn control(&self) -> Control {
        let mut bytes = [0; HEAD];
        let length = self.frame.len().min(HEAD);
        bytes[..length].copy_from_slice(&self.frame[..length]);
        let mut head = [0; (HEAD - WORDS_AT) / 8];
        for (word, bytes) in head.iter_mut().zip(bytes[WORDS_AT..].chunks_exact(8)) {
            *word = bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        }
        let word = |offset: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|i| bytes[offset + i]));
        let half = |offset: usize| u32::from(u16::from_ne_bytes([bytes[offset], bytes[offset + 1]]));
        let (address, port) = match self.place {
            Place::Nowhere => (0, 0),
            Place::Source4 => (word(30), half(36)),
            Place::Destination4 => (word(26), half(34)),
            Place::Source6 => (word(50), half(56)),
            Place::Destination6 => (word(34), half(54)),
        };
        // Constants of Knuth's and Lewis's generator (Numerical Recipes, 7.1).
        let (multiplier, increment, mask) =
            if self.flows == 0 { (1, 1, u32::MAX) } else { (1_664_525, 1_013_904_223, self.flows - 1) };
        Control {
            head,
            count: 0,
            macs: [0, 4, 8].map(word),
            state: 0,
            multiplier,
            increment,
            mask,
            first: self.first,
            place: self.place as u32,
            address,
            port,
            services: self.services,
            ifindex: 0,
            zero: 0,
        }
    }
}
