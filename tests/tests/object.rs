//! The built BPF object: its maps are what `lb_common::maps` says, its programs are what the loader expects, and the verifier
//! accepts each within a budget.

use aya::EbpfLoader;
use aya::programs::{Program, ProgramError};
use aya_obj::{Object, ProgramSection};
use lb_common::maps::{DEFAULT_MAX_FLOWS, INSTANCE_MAPS, MAPS, MapKind, SMALLEST_RING};
use lb_tests::needs_datapath;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

/// Instructions the verifier may process for one program. The kernel's own limit is a million; this one tells when a
/// change makes the programs much harder to verify. Extension headers, fragments, three transport protocols, ICMP errors and
/// answers multiply the paths.
const BUDGET: u32 = 400_000;
/// The same for programs that trace, which never are on a hook: what they tell multiplies the paths once more.
const TRACING_BUDGET: u32 = 500_000;

const PROGRAMS: [&str; 13] = [
    "lb_connect4",
    "lb_connect6",
    "lb_getpeername4",
    "lb_getpeername6",
    "lb_recvmsg4",
    "lb_recvmsg6",
    "lb_sendmsg4",
    "lb_sendmsg6",
    "lb_tcx_egress",
    "lb_tcx_ingress",
    "lb_xdp",
    "lb_xdp_generic",
    "lb_xdp_probe",
];

/// Parsing needs no root, so only a missing object leaves these tests out.
fn object() -> Option<Object> {
    let Some(bytes) = lb_ctl::OBJECT else {
        assert!(std::env::var_os("LB_REQUIRE_ROOT").is_none(), "the BPF object is not built");
        eprintln!("LEFT OUT: the BPF object is not built: `cargo xtask build` makes it");
        return None;
    };
    Some(Object::parse(bytes).expect("an ELF object"))
}

#[test]
fn maps_are_those_of_the_contract() {
    let Some(object) = object() else { return };
    let of_ours = |name: &str| !name.starts_with('.') && !name.starts_with("AYA_LOG");
    let found: BTreeSet<&str> = object.maps.keys().map(String::as_str).filter(|name| of_ours(name)).collect();
    let expected: BTreeSet<&str> = MAPS.iter().chain(INSTANCE_MAPS).map(|map| map.name).collect();
    assert_eq!(found, expected);
    for spec in MAPS.iter().chain(INSTANCE_MAPS) {
        let map = &object.maps[spec.name];
        assert_eq!(map.map_type(), spec.kind as u32, "kind of {}", spec.name);
        assert_eq!(map.key_size() as usize, spec.key, "key of {}", spec.name);
        assert_eq!(map.value_size() as usize, spec.value, "value of {}", spec.name);
        assert_eq!(map.map_flags(), spec.flags, "flags of {}", spec.name);
        // Those of an instance get their room from who loads it.
        let is_of_an_instance = INSTANCE_MAPS.iter().any(|own| own.name == spec.name);
        let entries = match spec.kind {
            MapKind::RingBuf if is_of_an_instance => SMALLEST_RING,
            _ if is_of_an_instance => 1,
            _ => spec.entries_for(DEFAULT_MAX_FLOWS),
        };
        assert_eq!(map.max_entries(), entries, "size of {}", spec.name);
    }
}

#[test]
fn programs_are_those_the_loader_expects() {
    let Some(object) = object() else { return };
    let found: BTreeSet<&str> = object.programs.keys().map(String::as_str).collect();
    assert_eq!(found, BTreeSet::from(PROGRAMS));
    for (name, program) in &object.programs {
        match &program.section {
            ProgramSection::Xdp { frags, .. } => assert_eq!(*frags, name == "lb_xdp", "{name}"),
            ProgramSection::SchedClassifier => assert!(name.starts_with("lb_tcx"), "{name}"),
            ProgramSection::CgroupSockAddr { attach_type } => {
                let hook = format!("{attach_type:?}").trim_end_matches(char::is_numeric).to_lowercase();
                assert!(hook.ends_with(name.trim_start_matches("lb_").trim_end_matches(char::is_numeric)), "{name}");
            }
            other => panic!("{name} is of a kind nobody loads: {other:?}"),
        }
    }
    assert_eq!(object.license.to_str(), Ok("Dual MIT/GPL"));
}

#[test]
fn programs_pass_the_verifier_within_their_budget() {
    needs_datapath!();
    let (attached, tags) = verified(0);
    let (traced, same_tags) = verified(1);
    assert_eq!(tags, same_tags, "programs that trace are the same instructions");
    for (what, budget, verified) in [("", BUDGET, attached), (", tracing", TRACING_BUDGET, traced)] {
        for (name, instructions) in &verified {
            // Past the capture of the test runner: the figures are to be seen. If this fails there is nobody to tell.
            writeln!(std::io::stderr(), "{name:<16} {instructions:>7} verified instructions of {budget}{what}").ok();
            assert!(*instructions <= budget, "{name}{what}");
        }
    }
}

/// Loads every program, with this value of the constant TRACE. By name, how many instructions the verifier processed, and the tag.
fn verified(trace: u8) -> (BTreeMap<String, u32>, BTreeMap<String, u64>) {
    let mut loader = EbpfLoader::new();
    loader.override_global("TRACE", &trace, true);
    let hashing = lb_tests::kernel::hashing(4096);
    loader.override_global("HASHED", &hashing, true);
    for map in MAPS {
        loader.map_max_entries(map.name, map.entries_for(4096));
    }
    let mut ebpf = loader.load(lb_ctl::OBJECT.expect("checked above")).expect("the object loads");
    let (mut verified, mut tags) = (BTreeMap::new(), BTreeMap::new());
    for (name, program) in ebpf.programs_mut() {
        let outcome = match program {
            Program::Xdp(program) => program.load(),
            Program::SchedClassifier(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            _ => panic!("{name} is of a kind nobody loads"),
        };
        if let Err(ProgramError::LoadError { io_error, verifier_log }) = outcome {
            let log = verifier_log.to_string();
            let lines: Vec<&str> = log.lines().collect();
            panic!("{name}: {io_error}\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
        outcome.expect(name);
        let info = program.info().expect("a loaded program has its info");
        verified.insert(name.to_owned(), info.verified_instruction_count().expect("Linux 5.16 tells"));
        tags.insert(name.to_owned(), info.tag());
    }
    (verified, tags)
}
