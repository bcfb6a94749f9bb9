//! Programs as bare bytecode, the form in which a control client ships them and bpf(2) takes them.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use crate::insn::{self, Insn, SLOT, decode_all};
use crate::kfunc::Kfunc;
use crate::object::btf::{Btf, Lines};
use crate::program::{Body, Collection};
use crate::{Hook, LoadError, Map, Program, check, jit};

/// `BPF_PSEUDO_MAP_IDX`: a map by its index in a list.
const MAP_INDEX: u8 = 5;
/// `BPF_PSEUDO_MAP_IDX_VALUE`: an address in the value of such a map.
const MAP_INDEX_VALUE: u8 = 6;

/// A kind that no check accepts.
const UNKNOWN: u8 = 9;

impl Program {
    /// Makes a program of little-endian instructions. Maps are named by their index in `maps` (`BPF_PSEUDO_MAP_IDX`,
    /// `BPF_PSEUDO_MAP_IDX_VALUE`); functions begin where calls point.
    pub fn from_bytecode(
        name: &str,
        bytes: &[u8],
        maps: &[Arc<Map>],
        cpus: u32,
    ) -> Result<Arc<Program>, LoadError> {
        if bytes.is_empty() || !bytes.len().is_multiple_of(SLOT) {
            return Err(LoadError::Unsupported(format!(
                "program `{name}`: {} bytes are no whole number of instructions",
                bytes.len()
            )));
        }
        let mut insns = decode_all(bytes);
        let mut starts = BTreeSet::from([0]);
        let mut at = 0;
        while at < insns.len() {
            let wide = insns[at].is_wide();
            if let Some(target) = resolve(&mut insns[at], at, maps.len())
                && (0..insns.len() as i64).contains(&target)
            {
                starts.insert(target as usize);
            }
            at += if wide { 2 } else { 1 };
        }
        let ends = starts.iter().skip(1).copied().chain([insns.len()]);
        let functions = starts.iter().copied().zip(ends).collect();
        let body = Body {
            id: Body::next_id(),
            name: name.into(),
            hook: Hook::Xdp,
            section: "xdp".into(),
            insns,
            functions,
            lines: Lines::default(),
            btf: Arc::new(Btf::default()),
            jit: jit::Slot::default(),
            zeroed: OnceLock::new(),
            verified: OnceLock::new(),
            rx_meta: None,
            never: Vec::new(),
        };
        check::check(&body)?;
        let body = Arc::new(body);
        let collection = Collection {
            maps: maps.to_vec(),
            _bodies: vec![body.clone()],
            locks: Vec::new(),
            cpus: cpus.max(1),
        };
        Ok(Arc::new(Program::new(body, Arc::new(collection))))
    }

    /// The linked program as bytecode: maps by index in [`Program::maps`], functions relative to their reference, as
    /// [`Program::from_bytecode`] and bpf(2) (with an fd array) take it. Kernel functions are numbered by this runtime.
    pub fn bytecode(&self) -> Vec<u8> {
        let insns = &self.body().insns;
        let mut out = Vec::with_capacity(insns.len() * SLOT);
        let mut at = 0;
        while let Some(&insn) = insns.get(at) {
            let mut insn = insn;
            let wide = insn.is_wide();
            if wide {
                match insn.src {
                    insn::IMM_MAP => insn.src = MAP_INDEX,
                    insn::IMM_MAP_VALUE => insn.src = MAP_INDEX_VALUE,
                    insn::IMM_FUNC => insn.imm -= at as i32 + 1,
                    _ => {}
                }
            }
            out.extend_from_slice(&insn.encode());
            if wide && let Some(second) = insns.get(at + 1) {
                out.extend_from_slice(&second.encode());
            }
            at += if wide { 2 } else { 1 };
        }
        out
    }
}

/// Turns a reference into the form of linked programs; gives the instruction that a function reference points to.
fn resolve(insn: &mut Insn, at: usize, maps: usize) -> Option<i64> {
    let target = at as i64 + 1 + i64::from(insn.imm);
    if insn.is_wide() {
        // A kind or index that means nothing becomes one that the check refuses.
        let known = usize::try_from(insn.imm).is_ok_and(|i| i < maps);
        insn.src = match insn.src {
            MAP_INDEX if known => insn::IMM_MAP,
            MAP_INDEX_VALUE if known => insn::IMM_MAP_VALUE,
            insn::IMM_FUNC => {
                insn.imm = i32::try_from(target).unwrap_or(-1);
                return Some(target);
            }
            insn::IMM_PLAIN => insn::IMM_PLAIN,
            _ => UNKNOWN,
        };
        return None;
    }
    if insn.code == insn::CALL
        && insn.src == insn::CALL_KFUNC
        && Kfunc::by_id(insn.imm.into()) == Kfunc::Missing
    {
        insn.src = UNKNOWN;
    }
    (insn.code == insn::CALL && insn.src == insn::CALL_LOCAL).then_some(target)
}
