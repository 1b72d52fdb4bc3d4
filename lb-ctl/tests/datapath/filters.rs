//! Others on the same hooks, and filters on a clsact qdisc in place of TCX.

use crate::sandbox::{Sandbox, interface, names, run, sandboxed, veth};
use aya::programs::links::LinkOrder;
use aya::programs::tc::{NlOptions, TcAttachOptions};
use aya::programs::{SchedClassifier, TcAttachType};
use lb_ctl::datapath::{AttachError, Attachment, Datapath, Mode, Options, TcMode, cleanup};
use std::time::{Duration, Instant};

fn open(sandbox: &Sandbox, tc: TcMode) -> Datapath {
    Datapath::open(&Options { tc, ..sandbox.options("one") }).expect("a datapath")
}

/// Somebody else's programs.
fn others() -> aya::Ebpf {
    let mut other = aya::Ebpf::load(lb_ctl::OBJECT.expect("an object")).expect("loaded");
    for name in ["lb_tcx_ingress", "lb_tcx_egress"] {
        program(&mut other, name).load().expect("loaded");
    }
    other
}

fn program<'a>(object: &'a mut aya::Ebpf, name: &str) -> &'a mut SchedClassifier {
    object.program_mut(name).expect("a program").try_into().expect("a classifier")
}

fn id(object: &mut aya::Ebpf, name: &str) -> u32 {
    program(object, name).info().expect("the kernel tells").id()
}

fn on_ingress(name: &str) -> Vec<u32> {
    let (_, programs) = SchedClassifier::query_tcx(name, TcAttachType::Ingress).expect("the kernel tells");
    programs.iter().map(aya::programs::ProgramInfo::id).collect()
}

#[test]
fn others_on_tcx_keep_their_place_and_run() {
    sandboxed(|sandbox| {
        let veth = veth("lbe0", "lbe1");
        let mut other = others();
        let (first, last) = (id(&mut other, "lb_tcx_egress"), id(&mut other, "lb_tcx_ingress"));
        let after = TcAttachOptions::TcxOrder(LinkOrder::last());
        program(&mut other, "lb_tcx_ingress")
            .attach_with_options("lbe0", TcAttachType::Ingress, after)
            .expect("attached");
        let mut datapath = sandbox.open("one");
        datapath.attach(&veth, Mode::Tcx).expect("attached");
        let before = TcAttachOptions::TcxOrder(LinkOrder::first());
        program(&mut other, "lb_tcx_egress")
            .attach_with_options("lbe0", TcAttachType::Ingress, before)
            .expect("attached");
        let order = on_ingress("lbe0");
        assert_eq!((order.len(), order[0], order[2]), (3, first, last));
        drop(datapath);
        let mut datapath = sandbox.open("one");
        assert!(datapath.attach(&veth, Mode::Tcx).expect("attached").adopted);
        datapath.settle().expect("settled");
        let adopted = on_ingress("lbe0");
        assert_eq!((adopted.len(), adopted[0], adopted[2]), (3, first, last));
        assert_ne!(adopted[1], order[1], "ours is the new program");
        // What we leave alone goes on to whoever stands behind us.
        let _stats = aya::sys::enable_stats(aya::sys::Stats::RunTime).expect("counting");
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            // A new link says something on its own account.
            run("ip link set lbe1 down");
            run("ip link set lbe1 up");
            std::thread::sleep(Duration::from_millis(100));
            let runs = |object: &mut aya::Ebpf, name| program(object, name).info().expect("told").run_count();
            if runs(&mut other, "lb_tcx_egress") > 0 && runs(&mut other, "lb_tcx_ingress") > 0 {
                break;
            }
            assert!(Instant::now() < deadline, "others do not run");
        }
    });
}

/// The lines of `tc` about filters on a hook.
fn filters(hook: &str) -> Vec<String> {
    let shown = run(&format!("tc filter show dev lbe0 {hook}"));
    shown.lines().filter(|line| line.contains(" handle ")).map(|line| line.trim().to_owned()).collect()
}

#[test]
fn filters_are_adopted_in_place_and_removed_alone() {
    sandboxed(|sandbox| {
        let veth = veth("lbe0", "lbe1");
        let mut other = others();
        aya::programs::tc::qdisc_add_clsact("lbe0").expect("a qdisc");
        let theirs = TcAttachOptions::Netlink(NlOptions { priority: 1, handle: 7.into(), classid: None });
        let link = program(&mut other, "lb_tcx_egress").attach_with_options("lbe0", TcAttachType::Ingress, theirs);
        link.expect("attached");
        let before = filters("ingress");
        assert_eq!(before.len(), 1, "{before:?}");

        let mut datapath = open(sandbox, TcMode::Clsact);
        let attachment = datapath.attach(&veth, Mode::Tcx).expect("attached");
        assert!(attachment.tcx && attachment.clsact && !attachment.adopted, "{attachment:?}");
        datapath.settle().expect("settled");
        assert!(on_ingress("lbe0").is_empty() && names(&sandbox.pins("one").join("links")).is_empty());
        let ours = |hook: &str| -> Vec<String> {
            filters(hook).into_iter().filter(|line| line.contains("lb-ctl/one")).collect()
        };
        let placed = (ours("ingress"), ours("egress"));
        assert_eq!((placed.0.len(), placed.1.len(), filters("ingress").len()), (1, 1, 2));

        // It stays without the daemon, and the next one puts its program in the same place.
        drop(datapath);
        assert_eq!((ours("ingress"), ours("egress")), placed);
        let mut datapath = open(sandbox, TcMode::Clsact);
        assert!(datapath.attach(&veth, Mode::Tcx).expect("attached").adopted);
        datapath.settle().expect("settled");
        let place = |line: &str| {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let after = |word: &str| words.iter().skip_while(|other| *other != word).nth(1).cloned();
            (after("pref"), after("handle"))
        };
        assert_eq!(place(&ours("ingress")[0]), place(&placed.0[0]));
        assert_ne!(ours("ingress"), placed.0, "with another program");

        // An interface that is named no more.
        drop(datapath);
        let mut datapath = open(sandbox, TcMode::Clsact);
        let settled = datapath.settle().expect("settled");
        assert_eq!(settled.detached.len(), 2, "{settled:?}");
        assert_eq!(filters("ingress"), before);

        datapath.attach(&interface("lbe0"), Mode::Tcx).expect("attached");
        drop(datapath);
        let removed = cleanup(&sandbox.options("one")).expect("removed");
        assert_eq!(removed.iter().filter(|line| line.contains("filter lb-ctl/one")).count(), 2, "{removed:?}");
        assert_eq!(filters("ingress"), before, "the other's filter stands");
        // The qdisc goes with the last filter.
        drop(other);
        run("tc filter del dev lbe0 ingress");
        let mut datapath = open(sandbox, TcMode::Clsact);
        datapath.attach(&interface("lbe0"), Mode::Tcx).expect("attached");
        assert!(run("tc qdisc show dev lbe0").contains("clsact"));
        datapath.detach(veth.index).expect("detached");
        assert!(!run("tc qdisc show dev lbe0").contains("clsact"));
    });
}

#[test]
fn one_kind_of_hook_takes_over_from_the_other() {
    sandboxed(|sandbox| {
        let veth = veth("lbe0", "lbe1");
        for (tc, links) in [(TcMode::Auto, 1), (TcMode::Clsact, 0), (TcMode::Tcx, 1)] {
            let mut datapath = open(sandbox, tc);
            let attachment = datapath.attach(&veth, Mode::Tcx).expect("attached");
            datapath.settle().expect("settled");
            assert_eq!(attachment.adopted, tc != TcMode::Auto, "{tc:?}");
            assert_eq!((on_ingress("lbe0").len(), filters("ingress").len()), (links, 1 - links), "{tc:?}");
        }
    });
}

/// From here on the kernel answers this thread so whenever it is asked for a BPF link.
fn refuse_links(errno: i32) {
    const BPF_LINK_CREATE: u32 = 28;
    /// Offsets in `struct seccomp_data`: the number of the system call, and the low half of its first argument.
    const NUMBER: u32 = 0;
    const COMMAND: u32 = if cfg!(target_endian = "little") { 16 } else { 20 };
    let load = |k| libc::sock_filter { code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, jt: 0, jf: 0, k };
    let equal = |k, jf| libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: 0, jf, k };
    let answer = |k| libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k };
    let mut filter = [
        load(NUMBER),
        equal(libc::SYS_bpf as u32, 3),
        load(COMMAND),
        equal(BPF_LINK_CREATE, 1),
        answer(libc::SECCOMP_RET_ERRNO | errno as u32),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the kernel copies the filter, which `program` describes.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Attaches in a thread that is refused links with `errno`.
fn attach_without_links(sandbox: &Sandbox, tc: TcMode, errno: i32) -> Result<Attachment, AttachError> {
    let veth = interface("lbe0");
    let attach = || {
        let mut datapath = open(sandbox, tc);
        refuse_links(errno);
        let attached = datapath.attach(&veth, Mode::Tcx);
        datapath.settle().expect("settled");
        attached
    };
    std::thread::scope(|scope| scope.spawn(attach).join().expect("no panic"))
}

/// The kernel at hand has TCX, so its refusal is put in its mouth.
#[test]
fn where_tcx_is_refused_filters_take_its_place() {
    sandboxed(|sandbox| {
        veth("lbe0", "lbe1");
        for errno in [libc::EINVAL, libc::EOPNOTSUPP] {
            let attachment = attach_without_links(sandbox, TcMode::Auto, errno).expect("attached");
            assert!(attachment.tcx && attachment.clsact, "{attachment:?}");
            assert_eq!((on_ingress("lbe0").len(), filters("ingress").len(), filters("egress").len()), (0, 1, 1));
            // Who asked for TCX by name gets nothing else, and is told.
            let error = attach_without_links(sandbox, TcMode::Tcx, errno).expect_err("refused").to_string();
            assert!(error.contains("TCX needs Linux 6.6"), "{error}");
            cleanup(&sandbox.options("one")).expect("removed");
        }
        // What is refused for another cause is no sign of an older kernel.
        attach_without_links(sandbox, TcMode::Auto, libc::EPERM).expect_err("refused");
        assert_eq!((on_ingress("lbe0").len(), filters("ingress").len()), (0, 0));
    });
}
