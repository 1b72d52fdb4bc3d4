//! The BPF object that this build carries.
//!
//! The build script copies it here from where `cargo xtask build` left it. It is aligned as an ELF file must be to be
//! read in place.

/// The datapath's ELF object, or `None` when it had not been built: `cargo xtask build` makes it.
#[cfg(lb_ebpf_object)]
pub static OBJECT: Option<&'static [u8]> = Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-ebpf")));

/// The datapath's ELF object, or `None` when it had not been built: `cargo xtask build` makes it.
#[cfg(not(lb_ebpf_object))]
pub static OBJECT: Option<&'static [u8]> = None;
