//! `lb-ctl cleanup` removes nothing by guess.

use assert_cmd::Command;

#[test]
fn a_socket_alone_does_not_tell_what_to_remove() {
    let output = Command::cargo_bin("lb-ctl")
        .expect("the binary is built")
        .args(["--socket", "/nonexistent/lb.sock", "cleanup"])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--instance"), "{said}");
}
