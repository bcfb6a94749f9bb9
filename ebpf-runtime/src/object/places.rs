//! What lies where in an object: which map, function or section a symbol means.

use std::collections::{HashMap, HashSet};

use object::elf::{self, SHN_COMMON, SHN_UNDEF};

use super::mapdefs::ObjectMap;
use super::{Code, FUNCTIONS_MAX, Function, Symbol, Target, bad};
use crate::LoadError;
use crate::insn::SLOT;

/// What lies where, for relocations.
pub(super) struct Places {
    pub kconfig: HashMap<String, (usize, u64)>,
    pub data: HashMap<usize, usize>,
    pub maps: HashMap<(usize, u64), usize>,
    pub code: HashMap<usize, usize>,
}

impl Places {
    pub fn new(maps: &[ObjectMap], code: &[Code]) -> Places {
        let indexed = || maps.iter().enumerate();
        Places {
            kconfig: indexed()
                .flat_map(|(i, m)| {
                    m.kconfig
                        .iter()
                        .map(move |v| (v.name.clone(), (i, v.offset as u64)))
                })
                .collect(),
            data: indexed()
                .filter(|(_, m)| m.data)
                .map(|(i, m)| (m.section, i))
                .collect(),
            maps: indexed()
                .filter(|(_, m)| !m.data)
                .map(|(i, m)| ((m.section, m.offset), i))
                .collect(),
            code: code.iter().enumerate().map(|(i, c)| (c.section, i)).collect(),
        }
    }

    pub fn target_of(&self, symbol: &Symbol) -> Option<Target> {
        if symbol.section == usize::from(SHN_UNDEF.0) {
            if let Some((map, offset)) = self.kconfig.get(&symbol.name) {
                return Some(Target::Data {
                    map: *map,
                    offset: *offset,
                });
            }
            return Some(Target::Extern {
                name: symbol.name.clone(),
                weak: symbol.weak,
            });
        }
        if symbol.section == usize::from(SHN_COMMON.0) {
            return None;
        }
        if let Some(map) = self.data.get(&symbol.section) {
            return Some(Target::Data {
                map: *map,
                offset: symbol.value,
            });
        }
        if let Some(map) = self.maps.get(&(symbol.section, symbol.value)) {
            return Some(Target::Map(*map));
        }
        self.code.contains_key(&symbol.section).then_some(Target::Code {
            section: symbol.section,
            offset: symbol.value,
        })
    }
}

/// Which entry of which map's `values` lies at an offset of `.maps`.
pub(super) fn slot_of(maps: &[ObjectMap], section: usize, offset: u64) -> Option<(usize, u32)> {
    let (at, map) = maps
        .iter()
        .enumerate()
        .filter(|(_, m)| m.section == section && m.offset <= offset)
        .max_by_key(|(_, m)| m.offset)?;
    let within = offset.checked_sub(map.offset)?.checked_sub(map.values_at?)?;
    Some((at, u32::try_from(within / 8).ok()?))
}

/// Functions by their symbols. Global functions outside `.text` are programs; those in `.text` are only if the object has
/// no others (libbpf's rule).
pub(super) fn functions(
    symbols: &[Symbol],
    code: &[Code],
    places: &Places,
) -> Result<Vec<Function>, LoadError> {
    let mut out: Vec<Function> = Vec::new();
    let untyped = |s: &&Symbol| s.kind == elf::STT_NOTYPE && !s.name.is_empty();
    let named = symbols
        .iter()
        .filter(|s| s.kind == elf::STT_FUNC || (untyped(s) && s.global));
    // Compilers before clang 8 left functions untyped. What tells their static functions from their labels is a call.
    let mut called: HashSet<(usize, i64)> = code
        .iter()
        .flat_map(|c| (0..c.insns.len()).filter_map(|at| c.callee(at)))
        .collect();
    let place = |s: &Symbol| (s.section, (s.value / SLOT as u64) as i64);
    for symbol in named.clone() {
        called.remove(&place(symbol));
    }
    let statics = symbols
        .iter()
        .filter(|s| untyped(s) && !s.global && called.remove(&place(s)));
    for symbol in named.chain(statics) {
        let Some(at) = places.code.get(&symbol.section).copied() else {
            continue;
        };
        let total = code[at].insns.len();
        let start = symbol.value as usize / SLOT;
        if !symbol.value.is_multiple_of(SLOT as u64) || start >= total {
            return Err(bad(format!(
                "function `{}` begins outside its section",
                symbol.name
            )));
        }
        let len = symbol.size as usize / SLOT;
        if len > total - start {
            return Err(bad(format!(
                "function `{}` ends outside its section",
                symbol.name
            )));
        }
        let is_program = symbol.global && code[at].name != ".text";
        out.push(Function {
            name: symbol.name.clone(),
            code: at,
            start,
            len,
            is_program,
        });
        if out.len() > FUNCTIONS_MAX {
            return Err(bad(format!("more than {FUNCTIONS_MAX} functions")));
        }
    }
    out.sort_by_key(|f| (f.code, f.start));
    // Symbols without a size reach to the next one.
    for i in 0..out.len() {
        if out[i].len == 0 {
            let end = match out.get(i + 1) {
                Some(next) if next.code == out[i].code => next.start,
                _ => code[out[i].code].insns.len(),
            };
            out[i].len = end.saturating_sub(out[i].start);
        }
    }
    if !out.iter().any(|f| f.is_program) {
        out.iter_mut().for_each(|f| f.is_program = true);
    }
    Ok(out)
}
