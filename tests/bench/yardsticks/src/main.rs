//! The BPF object: the wrapper, and the yardsticks.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod kernel;

/// On the host there is nothing to run: the object is built for the target `bpfel-unknown-none`.
#[cfg(not(target_arch = "bpf"))]
fn main() {
    println!("lb-yardsticks is a BPF object: `cargo xtask bench` builds and runs it");
}
