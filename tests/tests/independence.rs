//! The oracle judges the datapath, so it must not know it.

use std::path::Path;
use std::process::Command;

#[test]
fn the_oracle_depends_on_nothing_of_ours() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the workspace's root");
    let tree = |package: &str| {
        let mut cargo = Command::new(option_env!("CARGO").unwrap_or("cargo"));
        cargo.args(["tree", "--offline", "--locked", "--edges=all", "--prefix=none", "--package", package]);
        let output = cargo.current_dir(root).output().expect("cargo is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("names of packages")
    };
    let ours = |tree: &str| -> Vec<String> {
        let names = tree.lines().filter_map(|line| line.split_whitespace().next());
        names.filter(|name| name.starts_with("lb-")).map(str::to_owned).collect()
    };
    assert_eq!(ours(&tree("lb-oracle")), ["lb-oracle"]);
    // What runs the core under it needs no lb-ctl: it is built anew for each mutation of the core.
    let memory = ours(&tree("lb-memory"));
    assert!(memory.contains(&"lb-ebpf".to_owned()) && !memory.contains(&"lb-ctl".to_owned()), "{memory:?}");
}
