//! Static linking: a program's function and every function it calls, from whatever section, become one instruction
//! stream in which calls are relative and maps are named by index.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use crate::insn::{self, Insn};
use crate::kfunc::Kfunc;
use crate::object::btf::Lines;
use crate::object::mapdefs::unsupported;
use crate::object::{Code, Object, Target};
use crate::program::Body;
use crate::rx_meta::relocate::Patched;
use crate::{Hook, LoadError, RxMeta, check, jit};

/// Most instructions of one linked program; the kernel's complexity limit is the same number.
const PROGRAM_MAX: usize = 1_000_000;

/// Links the object's function number `main`, for this hook or the one that its section names.
/// `meta` is the struct of the metadata of the queues that it is loaded for.
pub(crate) fn link(
    object: &Object,
    main: usize,
    hook: Option<Hook>,
    meta: &Arc<RxMeta>,
) -> Result<Body, LoadError> {
    let hook = hook.unwrap_or_else(|| {
        let function = &object.functions[main];
        Hook::of_section(&object.code[function.code].name)
    });
    // The frames of steering programs have none.
    let none = Arc::new(RxMeta::new(object.asks_of_meta(), None));
    let meta = if hook == Hook::Xdp { meta } else { &none };
    let mut linker = Linker {
        object,
        hook,
        meta,
        order: Vec::new(),
        place: HashMap::new(),
        len: 0,
    };
    linker.add(main)?;
    let mut done = 0;
    while done < linker.order.len() {
        linker.discover(linker.order[done])?;
        done += 1;
    }
    let body = linker.emit(main)?;
    check::check(&body)?;
    Ok(body)
}

struct Linker<'a> {
    object: &'a Object,
    hook: Hook,
    meta: &'a Arc<RxMeta>,
    /// Functions in the order they are laid out.
    order: Vec<usize>,
    /// First instruction of each.
    place: HashMap<usize, usize>,
    len: usize,
}

impl Linker<'_> {
    fn add(&mut self, function: usize) -> Result<(), LoadError> {
        if self.place.contains_key(&function) {
            return Ok(());
        }
        let f = &self.object.functions[function];
        self.place.insert(function, self.len);
        self.order.push(function);
        self.len += f.len;
        if self.len > PROGRAM_MAX {
            return Err(LoadError::Unsupported(format!(
                "program `{}` has more than {PROGRAM_MAX} instructions",
                self.object.functions[self.order[0]].name
            )));
        }
        Ok(())
    }

    fn discover(&mut self, function: usize) -> Result<(), LoadError> {
        let f = &self.object.functions[function];
        let code = &self.object.code[f.code];
        let mut at = f.start;
        while at < f.start + f.len {
            let insn = code.insns[at];
            if let Some(callee) = self.callee(code, at)? {
                self.add(callee)?;
            }
            at += if insn.is_wide() { 2 } else { 1 };
        }
        Ok(())
    }

    /// The function that an instruction calls or takes the address of.
    fn callee(&self, code: &Code, at: usize) -> Result<Option<usize>, LoadError> {
        let Some((section, slot)) = code.callee(at) else {
            return Ok(None);
        };
        let found = usize::try_from(slot)
            .ok()
            .and_then(|slot| self.object.function_at(section, slot));
        match found {
            Some(function) => Ok(Some(function)),
            None => Err(self.error(
                code,
                at,
                format!("calls instruction {slot}, where no function begins"),
            )),
        }
    }

    fn error(&self, code: &Code, at: usize, reason: String) -> LoadError {
        LoadError::Relocation {
            section: code.name.clone(),
            insn: at,
            reason,
        }
    }

    fn emit(&self, main: usize) -> Result<Body, LoadError> {
        let mut insns = Vec::with_capacity(self.len);
        let mut functions = Vec::new();
        let mut lines = Lines::default();
        let mut never = Vec::new();
        let mut reads_meta = false;
        for &function in &self.order {
            let f = &self.object.functions[function];
            let code = &self.object.code[f.code];
            let base = insns.len();
            functions.push((base, base + f.len));
            lines.append(&code.lines, f.start, f.len, base);
            let mut at = f.start;
            while at < f.start + f.len {
                let mut insn = code.insns[at];
                let wide = insn.is_wide() && at + 1 < f.start + f.len;
                let mut second = if wide { Some(code.insns[at + 1]) } else { None };
                let pc = base + at - f.start;
                self.patch(code, at, &mut insn, &mut second, pc)?;
                if let Some(relo) = code.meta.get(&at) {
                    reads_meta = true;
                    let patched = relo.apply(self.meta, &mut insn, second.as_mut());
                    let patched = patched.map_err(|reason| {
                        self.error(
                            code,
                            at,
                            format!("a CO-RE relocation of struct millrace_rx_meta: it {reason}"),
                        )
                    })?;
                    if let Patched::Never(what, remedy) = patched {
                        never.push((pc, what, remedy));
                    }
                }
                reads_meta |= calls_tail(&insn) && self.meta.is_asked_for();
                insns.push(insn);
                insns.extend(second);
                at += if wide { 2 } else { 1 };
            }
        }
        let f = &self.object.functions[main];
        Ok(Body {
            id: Body::next_id(),
            name: f.name.clone(),
            hook: self.hook,
            section: self.object.code[f.code].name.clone(),
            insns,
            functions,
            lines,
            btf: Arc::clone(&self.object.btf),
            jit: jit::Slot::default(),
            zeroed: OnceLock::new(),
            verified: OnceLock::new(),
            rx_meta: reads_meta.then(|| self.meta.clone()),
            never,
        })
    }

    /// Applies the relocation at an instruction that will lie at `pc`.
    fn patch(
        &self,
        code: &Code,
        at: usize,
        insn: &mut Insn,
        second: &mut Option<Insn>,
        pc: usize,
    ) -> Result<(), LoadError> {
        if let Some(callee) = self.callee(code, at)? {
            let target = self.place.get(&callee).copied().unwrap_or_default();
            if insn.is_wide() {
                (insn.src, insn.imm) = (insn::IMM_FUNC, target as i32);
                set_second(second, 0);
            } else {
                (insn.src, insn.imm) = (insn::CALL_LOCAL, (target as i64 - pc as i64 - 1) as i32);
            }
            return Ok(());
        }
        let Some(target) = code.relocs.get(&at) else {
            let unresolved = insn.is_wide() && insn.src != insn::IMM_PLAIN;
            if unresolved || (insn.code == insn::CALL && insn.src == insn::CALL_KFUNC) {
                return Err(self.error(
                    code,
                    at,
                    "refers to something outside the object without a relocation".into(),
                ));
            }
            return Ok(());
        };
        match target {
            Target::Map(map) if insn.is_wide() => {
                let wanted = &self.object.maps[*map];
                if let Some(raw) = wanted.unsupported {
                    return Err(unsupported(&wanted.def.name, raw));
                }
                (insn.src, insn.imm) = (insn::IMM_MAP, *map as i32);
                set_second(second, 0);
            }
            Target::Data { map, offset } if insn.is_wide() => {
                let total = i64::try_from(*offset)
                    .ok()
                    .and_then(|o| o.checked_add(i64::from(insn.imm)));
                let size = i64::from(self.object.maps[*map].def.value_size);
                let offset = total.filter(|o| (0..=size).contains(o)).ok_or_else(|| {
                    self.error(
                        code,
                        at,
                        format!("refers outside section `{}`", self.object.maps[*map].def.name),
                    )
                })?;
                (insn.src, insn.imm) = (insn::IMM_MAP_VALUE, *map as i32);
                set_second(second, offset as i32);
            }
            Target::Extern { name, weak } if insn.code == insn::CALL => match Kfunc::by_name(name) {
                Some(kfunc) => (insn.src, insn.imm) = (insn::CALL_KFUNC, kfunc as i32),
                // The program asks whether the function is there before it calls it.
                None if *weak => (insn.src, insn.imm) = (insn::CALL_KFUNC, Kfunc::Missing as i32),
                None => {
                    return Err(LoadError::Kfunc {
                        program: self.object.functions[self.order[0]].name.clone(),
                        insn: pc,
                        line: code.lines.at(at, &self.object.btf).map(Box::new),
                        name: name.clone(),
                    });
                }
            },
            Target::Extern { name, weak } if insn.is_wide() => {
                let known = Kfunc::by_name(name).is_some();
                if !known && !weak {
                    return Err(self.error(
                        code,
                        at,
                        format!(
                            "external variable `{name}` is not available in userspace; declare it __weak"
                        ),
                    ));
                }
                // What a program can do with a kernel symbol's address is ask whether it is there.
                (insn.src, insn.imm) = (insn::IMM_PLAIN, i32::from(known));
                set_second(second, 0);
            }
            _ => return Err(self.error(code, at, "the relocation does not fit the instruction".into())),
        }
        Ok(())
    }
}

/// Whether it calls `bpf_tail_call`.
fn calls_tail(insn: &Insn) -> bool {
    const TAIL_CALL: i32 = 12;
    insn.code == insn::CALL && insn.src == insn::CALL_HELPER && insn.imm == TAIL_CALL
}

fn set_second(second: &mut Option<Insn>, imm: i32) {
    if let Some(second) = second {
        second.imm = imm;
    }
}
