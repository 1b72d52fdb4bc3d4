//! The BPF object: the programs that the kernel runs. Everything they do is in the library.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod kernel;

/// On the host there is nothing to run: the object is built for the target `bpfel-unknown-none`.
#[cfg(not(target_arch = "bpf"))]
fn main() {
    println!("lb-ebpf is a BPF object: build it with `cargo xtask build`");
}
