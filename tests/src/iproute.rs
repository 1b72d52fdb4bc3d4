//! `ip` and `tc` of iproute2 inside a namespace: what an operator would type.

use lb_ctl::playground::netns::NetNs;
use std::fs;
use std::process::Command;

/// Runs `ip` with these words in `space`; it must succeed. What it printed.
pub fn ip(space: &NetNs, words: &str) -> String {
    run(space, "ip", words)
}

/// The same with `tc`.
pub fn tc(space: &NetNs, words: &str) -> String {
    run(space, "tc", words)
}

fn run(space: &NetNs, program: &str, words: &str) -> String {
    let mut command = Command::new(program);
    command.args(words.split_whitespace());
    let output = space.run(|| command.output()).expect("a namespace of our own");
    let output = output.expect("iproute2 is installed: cargo xtask setup");
    assert!(output.status.success(), "{program} {words}: {}", String::from_utf8_lossy(&output.stderr));
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

/// Packets that a namespace has sent by a link.
pub fn sent_by(space: &NetNs, link: &str) -> u64 {
    let text = space.run(|| fs::read_to_string("/proc/thread-self/net/dev")).expect("a namespace").expect("procfs");
    let counters = text.lines().find_map(|line| line.trim().strip_prefix(link)?.strip_prefix(':'));
    let packets = counters.and_then(|line| line.split_whitespace().nth(9)?.parse().ok());
    packets.unwrap_or_else(|| panic!("{link} is not in {text}"))
}
