//! State files and bodies of requests.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lb_fuzz::state(data));
