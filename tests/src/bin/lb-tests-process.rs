//! The process that tests put into a cgroup: see `lb_tests::process`.

fn main() {
    lb_tests::process::serve();
}
