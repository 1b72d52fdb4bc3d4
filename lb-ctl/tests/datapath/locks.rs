//! One daemon per instance, one per network namespace; what must be true before anything is touched.

use crate::sandbox::{Pod, run, sandboxed};
use lb_ctl::datapath::{Datapath, Error, Options};

#[test]
fn a_second_daemon_is_refused_by_instance_and_by_namespace() {
    sandboxed(|sandbox| {
        let own = format!("(process {})", std::process::id());
        let first = sandbox.open("one");
        // Another instance in the same namespace.
        let error = Datapath::open(&sandbox.options("two")).unwrap_err();
        assert!(matches!(error, Error::NamespaceLocked { .. }), "{error}");
        assert!(error.to_string().contains(&own), "{error}");
        // The same instance from another namespace.
        let error = Pod::new().enter(|| Datapath::open(&sandbox.options("one")).unwrap_err());
        assert!(matches!(error, Error::InstanceLocked { .. }), "{error}");
        assert!(error.to_string().contains(&own) && error.to_string().contains("`one`"), "{error}");
        // Both locks end with their holder.
        drop(first);
        sandbox.open("one");
        sandbox.open("two");
    });
}

#[test]
fn another_instance_runs_beside_in_another_namespace() {
    sandboxed(|sandbox| {
        let _first = sandbox.open("one");
        Pod::new().enter(|| drop(sandbox.open("two")));
    });
}

#[test]
fn pins_of_a_living_namespace_are_not_adopted() {
    sandboxed(|sandbox| {
        let pod = Pod::new();
        let (options, here) = (sandbox.options("one"), crate::sandbox::veth("lbe0", "lbe1"));
        let mut datapath = sandbox.open("one");
        datapath.attach(&here, lb_ctl::datapath::Mode::Tcx).expect("attached");
        drop(datapath);
        let error = pod.enter(|| Datapath::open(&options).unwrap_err());
        assert!(matches!(error, Error::OtherNamespace(_)), "{error}");
        assert!(error.to_string().contains("lb-ctl cleanup"), "{error}");
        // Once nothing is attached there any more, they are nobody's.
        run("ip link del lbe0");
        pod.enter(|| drop(sandbox.open("one")));
        // And now they are the pod's, with nothing attached: they come back to us as well.
        drop(sandbox.open("one"));
    });
}

#[test]
fn the_default_file_system_is_mounted_where_it_is_missing_and_no_other() {
    sandboxed(|sandbox| {
        let options = Options { bpffs: sandbox.directory().into(), ..sandbox.options("one") };
        let error = Datapath::open(&options).unwrap_err();
        assert!(matches!(error, Error::NotBpffs(_)), "{error}");
        assert!(error.to_string().contains("mount -t bpf"), "{error}");
        // What is mounted at the default path is mounted in this test's mount namespace alone.
        let options = Options { bpffs: Options::default().bpffs, ..sandbox.options("lbe-mount") };
        let datapath = Datapath::open(&options).expect("a datapath");
        assert_eq!(run("stat -f -c %T /sys/fs/bpf").trim(), "bpf_fs");
        drop(datapath);
        lb_ctl::datapath::cleanup(&options).expect("removed");
    });
}

#[test]
fn without_privilege_one_sentence_says_so() {
    sandboxed(|sandbox| {
        let binary = std::env::current_exe().expect("this test");
        let copy = sandbox.directory().join("test");
        std::fs::copy(binary, &copy).expect("a copy that anyone may run");
        run(&format!("chmod 755 {} {}", sandbox.directory().display(), copy.display()));
        let output = std::process::Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
            .arg(copy)
            .args(["--exact", "locks::unprivileged", "--ignored", "--nocapture"])
            .current_dir("/")
            .output()
            .expect("setpriv");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(printed.contains("lb-ctl needs CAP_NET_ADMIN and CAP_BPF: run it as root"), "{printed}");
    });
}

/// Runs without privilege, called by the test above.
#[test]
#[ignore = "called by another test, without privilege"]
fn unprivileged() {
    println!("{}", Datapath::open_object(&Options::default(), &[]).unwrap_err());
}
