//! DNS messages, of clients and of other servers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lb_fuzz::name(data));
