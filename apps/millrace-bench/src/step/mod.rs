//! Counting instructions with the processor's trap flag (ptrace(2), `PTRACE_SINGLESTEP`).
//!
//! The counted program is a child of its own. It asks to be traced, does a section between two marks, and goes on; the
//! parent steps it from mark to mark. A first, empty section tells what the marks cost. A string instruction (`rep movsb`)
//! traps after each repetition and is counted once.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::io::{self, Read};
use std::process::{Child, Command, Stdio};

/// What begins a section.
const BEGIN: libc::c_int = libc::SIGSTOP;
/// What ends it.
const END: libc::c_int = libc::SIGUSR1;

/// In the child: lets the parent trace it.
pub fn ask_to_be_traced() -> io::Result<()> {
    // SAFETY: PTRACE_TRACEME takes no arguments; the pointers are ignored.
    let done = unsafe {
        libc::ptrace(
            libc::PTRACE_TRACEME,
            0,
            std::ptr::null_mut::<libc::c_void>(),
            std::ptr::null_mut::<libc::c_void>(),
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// In the child: what is done in `section` is counted.
pub fn counted<T>(section: impl FnOnce() -> T) -> T {
    // SAFETY: raise has no memory effects of its own. The tracer swallows both signals.
    unsafe { libc::raise(BEGIN) };
    let result = section();
    // SAFETY: as above.
    unsafe { libc::raise(END) };
    result
}

/// How a traced child stopped.
enum Stop {
    Signal(libc::c_int),
    Ended,
}

/// A child that asks to be traced.
struct Traced {
    child: Child,
    pid: libc::pid_t,
    /// It has ended and been waited for; its number may be another's by now.
    ended: Cell<bool>,
}

impl Traced {
    fn request(&self, request: libc::c_uint, data: libc::c_long) -> io::Result<()> {
        // SAFETY: the requests used here (CONT, SINGLESTEP, SETOPTIONS) pass data by value and touch no memory of ours.
        let done = unsafe { libc::ptrace(request, self.pid, std::ptr::null_mut::<libc::c_void>(), data) };
        if done < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    fn wait(&self) -> io::Result<Stop> {
        let mut status = 0;
        // SAFETY: waitpid writes the status to a live local.
        if unsafe { libc::waitpid(self.pid, &raw mut status, libc::__WALL) } < 0 {
            return Err(io::Error::last_os_error());
        }
        if libc::WIFSTOPPED(status) {
            return Ok(Stop::Signal(libc::WSTOPSIG(status)));
        }
        self.ended.set(true);
        Ok(Stop::Ended)
    }

    /// Where the child's next instruction is.
    fn instruction_pointer(&self) -> u64 {
        let offset =
            std::mem::offset_of!(libc::user, regs) + std::mem::offset_of!(libc::user_regs_struct, rip);
        // SAFETY: PEEKUSER passes the offset by value and returns the word; nothing of ours is written.
        unsafe {
            libc::ptrace(
                libc::PTRACE_PEEKUSER,
                self.pid,
                offset,
                std::ptr::null_mut::<libc::c_void>(),
            ) as u64
        }
    }

    /// Lets the child run to the next section's begin.
    fn run_to_begin(&self) -> io::Result<()> {
        loop {
            match self.wait()? {
                Stop::Signal(signal) if signal == BEGIN => return Ok(()),
                Stop::Signal(libc::SIGTRAP) => self.request(libc::PTRACE_CONT, 0)?,
                Stop::Signal(signal) => self.request(libc::PTRACE_CONT, signal.into())?,
                Stop::Ended => return Err(io::Error::other("the counted program ended early")),
            }
        }
    }

    /// Steps through a section; gives its instructions, those of the marks included.
    fn step_to_end(&self, progress: &mut dyn FnMut(u64)) -> io::Result<u64> {
        let (mut count, mut before) = (0u64, 0);
        let mut signal = 0;
        loop {
            self.request(libc::PTRACE_SINGLESTEP, signal)?;
            signal = 0;
            match self.wait()? {
                Stop::Signal(libc::SIGTRAP) => {
                    let at = self.instruction_pointer();
                    count += u64::from(at != before);
                    before = at;
                    if count.is_multiple_of(4096) {
                        progress(count);
                    }
                }
                Stop::Signal(stop) if stop == END => return Ok(count),
                Stop::Signal(other) => signal = other.into(),
                Stop::Ended => return Err(io::Error::other("the counted program ended in its section")),
            }
        }
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        if !self.ended.get() {
            // It must not stay stopped behind us.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Instructions of the second section of `command`, less those of the first, which is to be empty; and what the command
/// wrote to its standard output.
pub fn count(mut command: Command, progress: &mut dyn FnMut(u64)) -> io::Result<(u64, String)> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take();
    let traced = Traced {
        pid: child.id() as libc::pid_t,
        child,
        ended: Cell::new(false),
    };
    traced.run_to_begin()?;
    traced.request(libc::PTRACE_SETOPTIONS, libc::PTRACE_O_EXITKILL.into())?;
    let marks = traced.step_to_end(&mut |_| {})?;
    traced.request(libc::PTRACE_CONT, 0)?;
    traced.run_to_begin()?;
    let all = traced.step_to_end(progress)?;
    traced.request(libc::PTRACE_CONT, 0)?;
    while let Stop::Signal(signal) = traced.wait()? {
        traced.request(libc::PTRACE_CONT, signal.into())?;
    }
    let mut said = String::new();
    if let Some(mut stdout) = stdout {
        stdout.read_to_string(&mut said)?;
    }
    Ok((all.saturating_sub(marks), said))
}
