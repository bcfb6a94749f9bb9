//! Counting instructions with the processor's trap flag.
//!
//! With the flag set the processor traps after every instruction, and the kernel makes a `SIGTRAP` of it (Intel SDM volume
//! 3, 18.3.1.4; sigaction(2)). The handler counts. A string instruction (`rep movsb`) traps after each repetition and is
//! counted once; a system call counts as one instruction. Time means nothing while this is on: a step takes a microsecond.
#![allow(unsafe_code)]

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Instructions seen since counting began.
static COUNT: AtomicU64 = AtomicU64::new(0);
/// Where the last one stands, to tell repetitions.
static LAST: AtomicU64 = AtomicU64::new(0);
/// The trap handler belongs to the whole process, so one count at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[cfg(target_arch = "x86_64")]
extern "C" fn trapped(_signal: libc::c_int, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a handler with SA_SIGINFO a valid ucontext that lives as long as the handler runs.
    let at =
        unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] } as u64;
    if LAST.swap(at, Relaxed) != at {
        COUNT.fetch_add(1, Relaxed);
    }
}

/// Sets or clears the trap flag of this thread.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn trap(on: bool) {
    const TRAP_FLAG: u64 = 1 << 8;
    // SAFETY: pushes and pops one word each way on the stack below anything of ours that is live (no `nostack`, so the
    // compiler leaves the red zone free), and changes no flag but the trap flag.
    unsafe {
        if on {
            std::arch::asm!("pushfq", "or qword ptr [rsp], {0}", "popfq", const TRAP_FLAG);
        } else {
            std::arch::asm!("pushfq", "and qword ptr [rsp], {0}", "popfq", const !TRAP_FLAG as i64);
        }
    }
}

/// Runs `section` and gives how many instructions this thread executed in it.
#[cfg(target_arch = "x86_64")]
pub fn count<T>(section: impl FnOnce() -> T) -> io::Result<(T, u64)> {
    let _one = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    // SAFETY: all zeroes is a valid sigaction; the handler has the type that SA_SIGINFO asks for and uses nothing but
    // atomics and its own arguments. The old action is put back below.
    let old = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let mut old: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = trapped;
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO;
        if libc::sigaction(libc::SIGTRAP, &raw const action, &raw mut old) < 0 {
            return Err(io::Error::last_os_error());
        }
        old
    };
    COUNT.store(0, Relaxed);
    trap(true);
    trap(false);
    let marks = COUNT.swap(0, Relaxed);
    trap(true);
    let result = section();
    trap(false);
    let count = COUNT.load(Relaxed).saturating_sub(marks);
    // SAFETY: `old` is what the kernel gave for this signal.
    if unsafe { libc::sigaction(libc::SIGTRAP, &raw const old, std::ptr::null_mut()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((result, count))
}

/// There is no trap flag that we know on this processor.
#[cfg(not(target_arch = "x86_64"))]
pub fn count<T>(_section: impl FnOnce() -> T) -> io::Result<(T, u64)> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "single-stepping is written for x86-64",
    ))
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use std::hint::black_box;

    fn rounds(n: u64) -> u64 {
        let n = black_box(n);
        let (_, count) = count(|| {
            let mut x = 3u64;
            for _ in 0..n {
                x = black_box(x.wrapping_mul(5));
            }
        })
        .unwrap();
        count
    }

    #[test]
    fn instructions_grow_with_the_work_and_by_the_same_each_time() {
        let (few, more, most) = (rounds(1000), rounds(2000), rounds(3000));
        assert!(
            (2000..40_000).contains(&few),
            "{few} instructions for 1000 rounds"
        );
        assert_eq!(more - few, most - more);
        assert!(
            (more - few).is_multiple_of(1000),
            "a whole number a round: {}",
            more - few
        );
    }

    #[test]
    fn an_empty_section_is_empty() {
        let (_, count) = count(|| ()).unwrap();
        assert!(count < 8, "{count}");
    }

    #[test]
    fn a_string_instruction_counts_once() {
        let (from, mut to) = (vec![1u8; 5000], vec![0u8; 5000]);
        let copy = |len: usize, to: &mut Vec<u8>| {
            let (source, target) = (from.as_ptr(), to.as_mut_ptr());
            // SAFETY: both are valid for `len` <= 5000 bytes and do not overlap.
            count(|| unsafe {
                std::arch::asm!("rep movsb", inout("rcx") len => _, inout("rsi") source => _, inout("rdi") target => _);
            })
            .unwrap()
            .1
        };
        assert_eq!(copy(10, &mut to), copy(5000, &mut to));
        assert_eq!(to, from);
    }
}
