//! What can go wrong: a file that cannot be loaded, a map operation that the kernel would refuse, a program that
//! steps out of bounds.

use std::fmt;

/// The kernel's error numbers; map operations return what bpf(2) would have returned.
pub use rustix::io::Errno;

/// Where an instruction came from, out of the object's `.BTF.ext` line information.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceLine {
    /// File name as the compiler recorded it.
    pub file: String,
    /// 1-based line.
    pub line: u32,
    /// The line's text.
    pub text: String,
}

impl fmt::Display for SourceLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.text.trim())
    }
}

/// ` (file:line: text)`, or nothing when the object carries no line information.
pub(crate) fn at_line(line: &Option<Box<SourceLine>>) -> String {
    line.as_ref().map(|l| format!(" ({l})")).unwrap_or_default()
}

/// Why an object or program cannot be loaded. Every message says what was found and what to do next.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    /// Not an ELF file, cut short, or for another machine.
    #[error("not a loadable BPF object: {0}; compile it with `clang -O2 -g -target bpf -c`")]
    Elf(String),
    /// `.BTF` or `.BTF.ext` contradict themselves.
    #[error("malformed BTF: {0}; rebuild the object with `clang -g -target bpf`")]
    Btf(String),
    /// A map definition that no kernel would accept, or that is not supported here.
    #[error("map `{map}`: {reason}")]
    Map {
        /// Map name.
        map: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A relocation that cannot be resolved.
    #[error("section `{section}`, instruction {insn}: {reason}")]
    Relocation {
        /// Section holding the instruction.
        section: String,
        /// Instruction slot within the section.
        insn: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The program calls a helper that this runtime does not have.
    #[error("program `{program}`, instruction {insn}{}: helper {name} (#{id}) {reason}", at_line(.line))]
    Helper {
        /// Program name.
        program: String,
        /// Instruction slot within the linked program.
        insn: usize,
        /// Source line, when the object tells.
        line: Option<Box<SourceLine>>,
        /// Helper id as in `enum bpf_func_id`.
        id: i32,
        /// Helper name, `unknown` for ids past the table.
        name: &'static str,
        /// Why it is refused and what to do.
        reason: String,
    },
    /// The program calls a kernel function that this runtime does not have.
    #[error("program `{program}`, instruction {insn}{}: kernel function `{name}` is not available here; ebpf-runtime/README.md lists those that are", at_line(.line))]
    Kfunc {
        /// Program name.
        program: String,
        /// Instruction slot within the linked program.
        insn: usize,
        /// Source line, when the object tells.
        line: Option<Box<SourceLine>>,
        /// Name the object asks for.
        name: String,
    },
    /// An instruction that RFC 9669 does not define, a jump out of the program, a register past r10.
    #[error("program `{program}`, instruction {insn}{}: {reason}", at_line(.line))]
    Instruction {
        /// Program name.
        program: String,
        /// Instruction slot within the linked program.
        insn: usize,
        /// Source line, when the object tells.
        line: Option<Box<SourceLine>>,
        /// What is wrong with it.
        reason: String,
    },
    /// The name given is not a program of the object.
    #[error("no program `{wanted}` in the object; it has: {have}")]
    NoSuchProgram {
        /// What was asked for.
        wanted: String,
        /// What there is.
        have: String,
    },
    /// The object holds several programs and none was named.
    #[error("the object holds several programs ({have}); name one")]
    AmbiguousProgram {
        /// What there is.
        have: String,
    },
    /// A loader option names a map or variable that the object does not have.
    #[error("the object has no {kind} `{name}`; it has: {have}")]
    NoSuchSymbol {
        /// `map` or `global variable`.
        kind: &'static str,
        /// What was asked for.
        name: String,
        /// What there is.
        have: String,
    },
    /// A variable's new value has the wrong size.
    #[error("global variable `{name}` is {want} bytes, {got} were given")]
    GlobalSize {
        /// Variable name.
        name: String,
        /// Size in the object.
        want: usize,
        /// Size given.
        got: usize,
    },
    /// The program reads the struct of another layout's metadata.
    #[error("program `{program}` reads {loaded}, which is {queue}; load it for that queue's port")]
    Layout {
        /// Program name.
        program: String,
        /// The struct it was loaded with.
        loaded: String,
        /// The struct that the queue gives.
        queue: String,
    },
    /// The engine asked for is not in this build.
    #[error("engine `{0}` is not available here ({1}); use `interp`")]
    EngineUnavailable(&'static str, &'static str),
    /// The engine does something in the program wrong, or cannot run it.
    #[error("engine `{engine}` does not run program `{program}`: {reason}; use `interp` or `jit`")]
    EngineRefused {
        /// Name of the engine.
        engine: &'static str,
        /// Name of the program.
        program: String,
        /// What it is about.
        reason: String,
    },
    /// A program that cranelift cannot compile.
    #[error("the JIT: {0}; use engine `interp` and report this")]
    Jit(String),
    /// The verifier refuses the program.
    #[error("{0}")]
    Refused(Box<crate::Refusal>),
    /// Something legitimate that this runtime does not do.
    #[error("{0}")]
    Unsupported(String),
}

/// Why a run ended in `XDP_ABORTED` without the program saying so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u32)]
pub enum Fault {
    /// None: the action is the program's own.
    #[default]
    None = 0,
    /// A load, store or helper argument outside everything the program may reach.
    OutOfBounds,
    /// A store into `.rodata` or a read-only map.
    ReadOnly,
    /// A context access that `struct xdp_md` does not allow.
    Context,
    /// More instructions than the budget: the program would not end.
    Budget,
    /// More than eight frames of bpf-to-bpf calls.
    CallDepth,
    /// A helper was given something that is not what it takes (a map of another kind, a bad pointer).
    HelperArgument,
    /// An atomic operation on an address that is not naturally aligned.
    Unaligned,
}

impl Fault {
    /// A few words for logs and counters.
    pub fn describe(self) -> &'static str {
        match self {
            Fault::None => "none",
            Fault::OutOfBounds => "memory access out of bounds",
            Fault::ReadOnly => "store into read-only memory",
            Fault::Context => "invalid context access",
            Fault::Budget => "instruction budget used up",
            Fault::CallDepth => "call depth exceeded",
            Fault::HelperArgument => "invalid helper argument",
            Fault::Unaligned => "unaligned atomic operation",
        }
    }
}

/// The last fault of an instance, told for a person.
#[derive(Debug, Clone)]
pub struct FaultReport {
    /// What happened.
    pub fault: Fault,
    /// Program it happened in (a tail call may have changed it).
    pub program: String,
    /// Instruction slot within the linked program.
    pub insn: usize,
    /// Source line, when the object tells.
    pub line: Option<SourceLine>,
    /// Address asked for, when an access failed.
    pub addr: u64,
    /// Length asked for, when an access failed.
    pub len: u64,
}

impl fmt::Display for FaultReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "program `{}`, instruction {}: {}",
            self.program,
            self.insn,
            self.fault.describe()
        )?;
        if self.len != 0 {
            write!(f, " ({} bytes at {:#x})", self.len, self.addr)?;
        }
        match &self.line {
            Some(line) => write!(f, " ({line})"),
            None => Ok(()),
        }
    }
}
