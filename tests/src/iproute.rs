//! `ip` of iproute2 inside a namespace: what an operator would type.

use lb_ctl::playground::netns::NetNs;
use std::process::Command;

/// Runs `ip` with these words in `space`; it must succeed. What it printed.
pub fn ip(space: &NetNs, words: &str) -> String {
    let mut command = Command::new("ip");
    command.args(words.split_whitespace());
    let output = space.run(|| command.output()).expect("a namespace of our own");
    let output = output.expect("ip is installed: cargo xtask setup");
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The same in both families: `{v4|v6}` stands for what differs.
pub fn ip_both(space: &NetNs, words: &str) {
    for (option, side) in [("-4", 0), ("-6", 1)] {
        let mut chosen = String::new();
        let mut rest = words;
        while let Some((before, after)) = rest.split_once('{') {
            let (choice, behind) = after.split_once('}').expect("a brace is closed");
            chosen += before;
            chosen += choice.split('|').nth(side).expect("{v4|v6}");
            rest = behind;
        }
        ip(space, &format!("{option} {chosen}{rest}"));
    }
}
