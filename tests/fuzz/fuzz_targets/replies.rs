//! Frames that meet known flows, judged by the oracle.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lb_fuzz::reply(data));
