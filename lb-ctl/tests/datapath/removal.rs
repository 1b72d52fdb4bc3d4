//! Removing everything, once and again.

use crate::sandbox::{run, sandboxed, veth};
use lb_common::maps::MAPS;
use lb_ctl::datapath::{Error, Mode, cleanup};

#[test]
fn cleanup_lists_what_it_removes_and_does_so_once() {
    sandboxed(|sandbox| {
        let options = sandbox.options("one");
        assert_eq!(cleanup(&options).expect("nothing to do"), Vec::<String>::new());
        let interface = veth("lbe0", "lbe1");
        let mut datapath = sandbox.open("one");
        datapath.attach(&interface, Mode::Xdp).expect("attached");
        let error = cleanup(&options).unwrap_err();
        assert!(matches!(error, Error::InstanceLocked { .. }), "{error}");
        drop(datapath);

        let removed = cleanup(&options).expect("removed");
        let place = format!("from lbe0 (interface {})", interface.index);
        for hook in ["XDP in native mode", "TCX ingress", "TCX egress"] {
            assert!(removed.contains(&format!("detached {hook} {place}")), "{removed:?}");
        }
        let flows = MAPS.iter().filter(|map| map.holds_flows).count();
        for expected in [format!("{flows} maps in flows-"), format!("{} maps in config-", MAPS.len() - flows)] {
            assert!(removed.iter().any(|line| line.contains(&expected)), "{removed:?}");
        }
        assert!(!run("ip link show lbe0").contains("xdp"));
        assert!(!sandbox.pins("one").exists() && !sandbox.bpffs().join("lb-ctl").exists());
        assert_eq!(cleanup(&options).expect("nothing left"), Vec::<String>::new());
        // Nothing of it hinders a new beginning.
        sandbox.open("one").attach(&interface, Mode::Xdp).expect("attached");
    });
}

#[test]
fn other_instances_are_left_alone() {
    sandboxed(|sandbox| {
        drop(sandbox.open("one"));
        drop(sandbox.open("two"));
        cleanup(&sandbox.options("one")).expect("removed");
        assert!(sandbox.pins("two").join("meta").exists());
    });
}
