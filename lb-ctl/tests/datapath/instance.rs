//! Another instance of the programs beside those that are attached.

use crate::sandbox::sandboxed;
use aya::maps::{Array, HashMap, Map};
use lb_common::{Owned, Settings, maps};
use lb_ctl::datapath::Instance;
use lb_ctl::maps::{LbMaps, MapOp};
use std::os::fd::AsRawFd;

#[test]
fn another_instance_has_the_same_programs_and_the_maps_it_is_to_share() {
    sandboxed(|sandbox| {
        let datapath = sandbox.open("one");
        let address = "10.96.0.1".parse().expect("an address");
        for op in
            [MapOp::PutOwned(address, Owned::SERVICE), MapOp::PutSettings(Settings { seed: 5, ..Settings::default() })]
        {
            datapath.maps().apply(&op).expect("written");
        }
        let object = lb_ctl::OBJECT.expect("`sandboxed` has looked");
        let own = |spec: &maps::MapSpec| (spec.name == maps::SETTINGS).then_some(1);
        let make = |logs| {
            let mut instance =
                Instance::new(object, &[("LOG", logs)], &datapath.shared_maps(), own).expect("an instance");
            assert!(instance.find("lb_xdp").is_none());
            instance.load("lb_xdp").expect("loaded");
            instance.load("lb_xdp").expect("loaded already");
            instance
        };
        let (quiet, loud) = (make(0), make(1));
        let fd = |instance: &Instance| instance.find("lb_xdp").expect("it is loaded").as_raw_fd();
        assert_ne!(fd(&quiet), fd(&loud));
        assert_eq!(quiet.tag("lb_xdp").expect("a tag"), loud.tag("lb_xdp").expect("a tag"), "a constant is no code");
        let Some(map @ Map::HashMap(_)) = loud.map(maps::OWNED4) else { panic!("a hash") };
        let owned: HashMap<_, [u8; 4], u32> = HashMap::try_from(map).expect("a hash of these sizes");
        assert_eq!(owned.get(&[10, 96, 0, 1], 0).expect("the address of the other instance"), Owned::SERVICE.0);
        let map = loud.map(maps::SETTINGS).expect("a map");
        let settings: Array<_, [u64; 16]> = Array::try_from(map).expect("an array of this size");
        assert_eq!(settings.get(&0, 0).expect("a value"), [0; 16], "a map of its own");
    });
}
