//! The pinned maps behave as the contract says.

use crate::sandbox::{MAX_FLOWS, sandboxed};
use aya::maps::{HashMap, Map, MapData, PerCpuArray, PerCpuValues};
use lb_common::{
    Affinity, AffinityKey, Backend, BackendSet, Device, Owned, Reason, Service, ServiceKey, Settings, Slot, TCP,
    Traffic,
};
use lb_ctl::datapath::affinity::AffinitySweep;
use lb_ctl::maps::{Image, LbMaps, MapOp, PinnedMaps};
use std::net::{IpAddr, Ipv4Addr};

fn backend(last: u8) -> Backend {
    Backend { address: [last; 16], flags: Backend::ALIVE, generation: 1, family: 6, reserved: [0; 3] }
}

#[test]
fn what_is_written_is_read_back() {
    sandboxed(|sandbox| {
        let mut maps = sandbox.open("one").maps();
        assert_eq!(maps.read().expect("read"), Image::default());
        let settings = Settings { seed: 9, snat4: Settings::lent([[10, 0, 0, 1]]), ..Settings::default() };
        let addresses: Vec<IpAddr> = vec!["10.96.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let last_slot = maps.capacity("SLOTS") - 1;
        let service = |base, count| Service {
            backends: BackendSet::new(base, count, 1),
            id: 3,
            target_port: [0, 80],
            flags: 0,
            affinity_ticks: 0,
            affinity_id: 0,
            members: BackendSet::EMPTY,
        };
        let key = |port| ServiceKey::new([10, 96, 0, 1].into(), port, TCP);
        let mut image = Image { settings, ..Image::default() };
        let mut operations = vec![MapOp::PutSettings(settings)];
        for (index, address) in addresses.iter().enumerate() {
            image.owned.insert(*address, Owned(index as u32 + 1));
            operations.push(MapOp::PutOwned(*address, Owned(index as u32 + 1)));
        }
        for id in [0, 1, 77] {
            image.backends.insert(id, backend(id as u8 + 1));
            operations.push(MapOp::PutBackend(id, backend(id as u8 + 1)));
        }
        // Two services share one range, one is at the end, one is empty; slot 500 is published by nobody.
        for index in [0, 1, 2, last_slot] {
            let slot = Slot { backend: 77, port: [1, 2], generation: 1 };
            image.slots.insert(index, slot);
            operations.push(MapOp::PutSlot(index, slot));
        }
        operations.push(MapOp::PutSlot(500, Slot { backend: 1, port: [0, 0], generation: 1 }));
        for (port, base, count) in [(80, 0, 3), (81, 0, 3), (82, last_slot, 1), (83, 0, 0)] {
            image.services.insert(key(port), service(base, count));
            operations.push(MapOp::PutService(key(port), service(base, count)));
        }
        image.devices.insert(5, Device::new(1));
        operations.push(MapOp::PutDevice(5, Device::new(1)));
        // Every write is idempotent.
        for operation in operations.iter().chain(&operations) {
            maps.apply(operation).expect("written");
        }
        assert_eq!(maps.read().expect("read"), image);

        let deletions = [
            MapOp::DeleteService(key(80)),
            MapOp::DeleteOwned(addresses[0]),
            MapOp::DeleteOwned(addresses[1]),
            MapOp::DeleteBackend(0),
            MapOp::DeleteDevice(5),
        ];
        for operation in deletions.iter().chain(&deletions) {
            maps.apply(operation).expect("deleted");
        }
        let left = maps.read().expect("read");
        assert!(left.owned.is_empty() && left.devices.is_empty());
        assert_eq!((left.services.len(), left.backends.len(), left.slots.len()), (3, 2, 4));
    });
}

#[test]
fn a_full_map_is_named_with_the_kernels_reason() {
    sandboxed(|sandbox| {
        let mut maps = sandbox.open("one").maps();
        assert_eq!(maps.capacity("FLOWS6"), 2 * MAX_FLOWS);
        assert_eq!(maps.capacity("NO_SUCH_MAP"), 0);
        let capacity = maps.capacity("SERVICES");
        let service = Service {
            backends: BackendSet::EMPTY,
            id: 0,
            target_port: [0; 2],
            flags: 0,
            affinity_ticks: 0,
            affinity_id: 0,
            members: BackendSet::EMPTY,
        };
        let key = |number| ServiceKey::new(Ipv4Addr::from_bits(0x0a60_0000 + number).into(), 80, TCP);
        for number in 0..capacity {
            maps.apply(&MapOp::PutService(key(number), service)).expect("written");
        }
        let error = maps.apply(&MapOp::PutService(key(capacity), service)).unwrap_err();
        assert_eq!((error.map, error.source.raw_os_error()), ("SERVICES", Some(libc::E2BIG)));
        // Reading a map that is larger than one batch.
        assert_eq!(maps.read().expect("read").services.len(), capacity as usize);
        let beyond = maps.capacity("BACKENDS");
        assert!(maps.apply(&MapOp::PutBackend(beyond, backend(1))).is_err());
    });
}

#[test]
fn counters_are_summed_over_the_cpus_and_reset() {
    sandboxed(|sandbox| {
        let mut maps = sandbox.open("one").maps();
        let path = sandbox.maps("one", "config-").join("SERVICE_STATS");
        let map = Map::PerCpuArray(MapData::from_pin(path).expect("the map"));
        let mut raw: PerCpuArray<_, Traffic> = map.try_into().expect("an array");
        let cpus = aya::util::nr_cpus().expect("CPUs") as u64;
        let one = |cpu| Traffic { connections: cpu, packets: 10, bytes: 100, reply_packets: 1, reply_bytes: 2 };
        let values = PerCpuValues::try_from((0..cpus).map(one).collect::<Vec<_>>()).expect("a value for each CPU");
        raw.set(7, values, 0).expect("written");
        let sums = maps.service_stats(&[7, 8]).expect("read");
        let sum = (0..cpus).sum::<u64>();
        assert_eq!((sums[&7].connections, sums[&7].bytes, sums[&7].reply_bytes), (sum, 100 * cpus, 2 * cpus));
        assert_eq!(sums[&8], Traffic::default());
        maps.apply(&MapOp::ResetServiceStats(7)).expect("reset");
        assert_eq!(maps.service_stats(&[7]).expect("read")[&7], Traffic::default());
        assert_eq!(maps.backend_stats(&[0]).expect("read")[&0], Traffic::default());
        assert_eq!(maps.reasons().expect("read").len(), Reason::ALL.len());
    });
}

#[test]
fn clients_are_swept_when_they_were_silent_for_too_long_or_their_service_is_gone() {
    sandboxed(|sandbox| {
        let mut maps = sandbox.open("one").maps();
        let path = sandbox.maps("one", "config-").join("AFFINITY");
        let map = Map::LruHashMap(MapData::from_pin(path).expect("the map"));
        let mut raw: HashMap<_, AffinityKey, Affinity> = map.try_into().expect("a hash");
        let service = |affinity_id, affinity_ticks| Service {
            backends: BackendSet::EMPTY,
            id: 0,
            target_port: [0; 2],
            flags: 0,
            affinity_ticks,
            affinity_id,
            members: BackendSet::EMPTY,
        };
        let put = |maps: &mut PinnedMaps, id, ticks| {
            let key = ServiceKey::of_node(id as u16, TCP, 4);
            maps.apply(&MapOp::PutService(key, service(id, ticks))).expect("written");
        };
        put(&mut maps, 1, 10);
        put(&mut maps, 2, 100);
        // Of three Services, the last of which nobody serves, ten clients each: seen in the ticks 0, 10, 20 ...
        for id in 1..=3 {
            for client in 0..10 {
                let entry = Affinity { tick: client * 10, ..Affinity::default() };
                raw.insert(AffinityKey::of_namespace(client.into(), id), entry, 0).expect("written");
            }
        }
        let left = |maps: &PinnedMaps| {
            let mut left = [0; 3];
            for entry in maps.affinity().iter() {
                left[entry.expect("read").0.service as usize - 1] += 1;
            }
            left
        };
        // A sweep in small steps comes round.
        let mut sweep = AffinitySweep::default();
        let mut round = |maps: &PinnedMaps, now| -> usize {
            (0..200).map(|_| maps.affinity().sweep(&mut sweep, now, 1).expect("swept")).sum()
        };
        assert_eq!(round(&maps, 95), 9 + 10);
        assert_eq!(left(&maps), [1, 10, 0]);
        assert_eq!(round(&maps, 121), 1 + 3);
        assert_eq!(left(&maps), [0, 7, 0]);
        // A timeout that was lengthened counts, and so does affinity that was switched off.
        put(&mut maps, 2, 1000);
        assert_eq!(round(&maps, 900), 0);
        put(&mut maps, 2, 0);
        assert_eq!(round(&maps, 900), 7);
        assert_eq!(maps.affinity().fill().expect("counted").entries, 0);
    });
}
