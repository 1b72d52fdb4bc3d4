//! Words that several CPUs change.
//!
//! `core` has no compare-and-exchange for BPF targets, though BPF has the instruction (CPU v3, Linux 5.12).

use core::sync::atomic::AtomicU64;

/// Writes `next` if the word still is `seen`; whether it was. Ordered before and after all else.
#[inline(always)]
pub(crate) fn exchange(word: &AtomicU64, seen: u64, next: u64) -> bool {
    #[cfg(not(target_arch = "bpf"))]
    {
        use core::sync::atomic::Ordering::SeqCst;
        word.compare_exchange(seen, next, SeqCst, SeqCst).is_ok()
    }
    #[cfg(target_arch = "bpf")]
    {
        let found: u64;
        // SAFETY: the reference is to an aligned word; the instruction takes what is expected in r0 and leaves there what it found.
        unsafe {
            core::arch::asm!(
                "r0 = cmpxchg_64({word} + 0, r0, {next})",
                word = in(reg) word.as_ptr(),
                next = in(reg) next,
                inout("r0") seen => found,
            );
        }
        found == seen
    }
}

/// Adds to a word, whatever it is; it may wrap. Ordered before and after all else.
#[inline(always)]
pub(crate) fn add(word: &AtomicU64, addend: u64) {
    #[cfg(not(target_arch = "bpf"))]
    word.fetch_add(addend, core::sync::atomic::Ordering::SeqCst);
    #[cfg(target_arch = "bpf")]
    // SAFETY: the reference is to an aligned word. The form that fetches is the one that is ordered.
    unsafe {
        core::arch::asm!(
            "{addend} = atomic_fetch_add((u64 *)({word} + 0), {addend})",
            word = in(reg) word.as_ptr(),
            addend = inout(reg) addend => _,
        );
    }
}

/// The word as it stands: one load. Volatile, since atomic loads are not in every version of the instruction set; what is
/// read behind it at an address made from it is ordered by that.
#[inline(always)]
pub(crate) fn load(word: &AtomicU64) -> u64 {
    // SAFETY: an aligned word that lives as long as the reference.
    unsafe { word.as_ptr().read_volatile() }
}

/// The same number, computed here and now. Otherwise the compiler may put off the sum of many numbers until it is needed, and keep all
/// of them on the stack until then.
#[inline(always)]
pub(crate) fn settled(number: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    let number = {
        let mut number = number;
        // SAFETY: it does nothing. No instruction at all would upset the table of lines.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) number) };
        number
    };
    number
}
