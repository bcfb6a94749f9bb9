//! Metadata kfuncs inline: what a queue's layout says becomes loads from the raw descriptor write-back.
//!
//! Code is compiled for a layout. A field that the layout does not have is its error number, a constant.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Block, BlockArg, InstBuilder, Value, types};

use super::access::int;
use super::facts::Place;
use super::function::Translator;
use super::kind::Kind;
use super::rt;
use super::state::offset;
use super::track::reaches;
use crate::hint::{HINT_FLAGS, HintField, Loc, Test};
use crate::insn::Insn;
use crate::interp::errno;
use crate::kfunc::Kfunc;
use crate::{Errno, HintKind};

/// What a kfunc writes through one of its pointers.
struct Out {
    /// Which of r1 to r5 points to it, counted from 0.
    arg: usize,
    len: i32,
    kind: HintKind,
    /// Its value where the queue does not deliver it; `None` if the whole call fails then.
    missing: Option<u32>,
    /// Whether it is in network order.
    swapped: bool,
}

/// What a kfunc writes; the first is the one that it is asked for.
fn outs(kfunc: Kfunc) -> Option<Vec<Out>> {
    let out = |arg, len, kind, missing| Out {
        arg,
        len,
        kind,
        missing,
        swapped: false,
    };
    Some(match kfunc {
        Kfunc::RxHash => vec![
            out(1, 4, HintKind::RxHash, None),
            out(2, 4, HintKind::RxHashType, Some(0)),
        ],
        Kfunc::RxTimestamp => vec![out(1, 8, HintKind::RxTimestamp, None)],
        Kfunc::RxVlanTag => vec![
            out(2, 2, HintKind::VlanTci, None),
            Out {
                swapped: true,
                ..out(1, 2, HintKind::VlanProto, Some(0x8100))
            },
        ],
        Kfunc::RxPtype => vec![out(1, 4, HintKind::PacketType, None)],
        Kfunc::RxMark => vec![out(1, 4, HintKind::Mark, None)],
        Kfunc::RxCsum => vec![out(1, 4, HintKind::CsumStatus, None)],
        Kfunc::RxHeaderLen => vec![out(1, 4, HintKind::HeaderLen, None)],
        Kfunc::RxExtracted => vec![out(1, 4, HintKind::Extracted, None)],
        Kfunc::Missing | Kfunc::HashToeplitz | Kfunc::HashCrc | Kfunc::HashXor => return None,
    })
}

/// What a field's value is made of.
#[derive(Clone, Copy)]
enum Source {
    Bits(Loc),
    Flags([Option<Test>; HINT_FLAGS]),
}

/// A field that is read inline.
#[derive(Clone, Copy)]
struct Plain {
    value: Source,
    valid: Option<Test>,
    table: Option<&'static [u32]>,
    /// Bytes of the write-back that it takes.
    needs: usize,
}

impl Plain {
    /// `None` where its bytes are not ones that a single load takes.
    fn of(field: &HintField) -> Option<Plain> {
        let (value, mut places) = match field.loc {
            Some(loc) if loc.shift < 64 => (Source::Bits(loc), vec![(loc.offset, loc.width)]),
            Some(_) => return None,
            None => (Source::Flags(field.flags), Vec::new()),
        };
        let tests = field.flags.iter().chain([&field.valid]).flatten();
        places.extend(tests.map(|test| (test.offset, test.width)));
        let loads = |width: u8| matches!(width, 1 | 2 | 4 | 8);
        let ends = places
            .iter()
            .map(|(at, width)| usize::from(*at) + usize::from(*width));
        places.iter().all(|(_, width)| loads(*width)).then_some(Plain {
            value,
            valid: field.valid,
            table: field.table,
            needs: ends.max().unwrap_or(0),
        })
    }
}

impl Translator<'_, '_> {
    /// A kernel function.
    pub fn kfunc(&mut self, insn: Insn, at: usize) {
        let value = match self.metadata(Kfunc::by_id(insn.imm.into()), insn, at) {
            Some(value) => value,
            None => self.called(insn, at),
        };
        self.set(0, value);
    }

    fn called(&mut self, insn: Insn, at: usize) -> Value {
        let id = self.c(insn.imm.into());
        let [a, b, c, d, e] = self.args();
        let [value, status] = self.call_rt(rt::kfunc as *const (), &[id, a, b, c, d, e], 2);
        self.checked(status, at);
        value
    }

    /// A metadata kfunc whose results go to the function's own stack.
    fn metadata(&mut self, kfunc: Kfunc, insn: Insn, at: usize) -> Option<Value> {
        let outs = outs(kfunc)?;
        let args = self.env.facts.args(at);
        let collection = self.env.collection;
        let there = |out: &Out| {
            let kind = args[out.arg];
            matches!(kind, Kind::Stack(_)) && reaches(collection, kind, 0, out.len, true).is_some()
        };
        if args[0] != Kind::Ctx || !outs.iter().all(there) {
            return None;
        }
        let layout = self.env.hints;
        let Some(main) = layout.field(outs.first()?.kind) else {
            return Some(self.c(errno(Errno::OPNOTSUPP) as i64));
        };
        let valid = main.valid;
        // Nothing is emitted before it is certain that all of them are read here. The inner `None`: the layout has no such field.
        let field = |out: &Out| {
            layout
                .field(out.kind)
                .map_or(Some(None), |field| Plain::of(field).map(Some))
        };
        let fields: Vec<Option<Plain>> = outs.iter().map(field).collect::<Option<_>>()?;
        let needs = fields
            .iter()
            .flatten()
            .map(|field| field.needs)
            .max()
            .unwrap_or(0);

        let (slow, done) = (self.cold(), self.b.create_block());
        let result = self.b.append_block_param(done, types::I64);
        let buf = self.buf();
        let raw = self.load_vm(types::I64, buf, offset::HINTS);
        let len = self.load_vm(types::I32, buf, offset::HINTS_LEN);
        let short = self
            .b
            .ins()
            .icmp_imm_u(IntCC::UnsignedLessThan, len, needs as i64);
        self.unless(short, slow);
        let absent = valid.map(|test| {
            let absent = self.b.create_block();
            let invalid = self.fails(raw, &test);
            self.unless(invalid, absent);
            absent
        });
        // All are read before the first is written.
        let mut values = Vec::new();
        for (out, field) in outs.iter().zip(fields) {
            let missing = out.missing.unwrap_or(0).into();
            let value = match field {
                Some(field) => {
                    let value = self.hint(raw, &field);
                    match field.valid.filter(|_| out.missing.is_some()) {
                        Some(test) => {
                            let invalid = self.fails(raw, &test);
                            let missing = self.c(missing);
                            self.b.ins().select(invalid, missing, value)
                        }
                        None => value,
                    }
                }
                None => self.c(missing),
            };
            values.push(value);
        }
        let mut writes: Vec<_> = outs.iter().zip(values).collect();
        // In the order of the pointers, as they may point to the same place.
        writes.sort_by_key(|(out, _)| out.arg);
        for (out, value) in writes {
            let flags = self.flags(Place::Stack);
            let to = self.reg(out.arg as u8 + 1);
            let mut value = match out.len {
                8 => value,
                len => self.b.ins().ireduce(int(len), value),
            };
            if out.swapped && cfg!(target_endian = "little") {
                value = self.b.ins().bswap(value);
            }
            self.b.ins().store(flags, value, to, 0);
        }
        let zero = self.c(0);
        self.b.ins().jump(done, &[BlockArg::Value(zero)]);
        if let Some(absent) = absent {
            self.absent(absent, done);
        }
        self.begin(slow);
        let value = self.called(insn, at);
        self.b.ins().jump(done, &[BlockArg::Value(value)]);
        self.begin(done);
        Some(result)
    }

    fn absent(&mut self, block: Block, done: Block) {
        self.begin(block);
        let value = self.c(errno(Errno::NODATA) as i64);
        self.b.ins().jump(done, &[BlockArg::Value(value)]);
    }

    /// Bytes of the write-back as a number.
    fn raw(&mut self, raw: Value, at: u8, width: u8) -> Value {
        let flags = self.regions.hints;
        self.load_zero_extended(flags, raw, at.into(), width.into())
    }

    /// Whether a field's validity test says that it is not there.
    fn fails(&mut self, raw: Value, test: &Test) -> Value {
        let bits = self.raw(raw, test.offset, test.width);
        let bits = self.b.ins().band_imm_s(bits, test.mask as i64);
        let value = self.c(test.value as i64);
        let code = if test.negate {
            IntCC::Equal
        } else {
            IntCC::NotEqual
        };
        self.b.ins().icmp(code, bits, value)
    }

    /// A number in the write-back.
    fn bits(&mut self, raw: Value, loc: &Loc) -> Value {
        let mut value = self.raw(raw, loc.offset, loc.width);
        if loc.shift > 0 {
            value = self.b.ins().ushr_imm_s(value, i64::from(loc.shift));
        }
        let all = if loc.width == 8 {
            u64::MAX
        } else {
            (1 << (8 * u32::from(loc.width))) - 1
        };
        if loc.mask & (all >> loc.shift) != all >> loc.shift {
            value = self.b.ins().band_imm_s(value, loc.mask as i64);
        }
        value
    }

    /// A number with a bit for each test that holds.
    fn flags_of(&mut self, raw: Value, tests: &[Option<Test>]) -> Value {
        let mut value = self.c(0);
        for (bit, test) in tests.iter().enumerate() {
            let Some(test) = test else { continue };
            let fails = self.fails(raw, test);
            let (off, on) = (self.c(0), self.c(1 << bit));
            let flag = self.b.ins().select(fails, off, on);
            value = self.b.ins().bor(value, flag);
        }
        value
    }

    /// A field's value.
    fn hint(&mut self, raw: Value, field: &Plain) -> Value {
        let value = match &field.value {
            Source::Bits(loc) => self.bits(raw, loc),
            Source::Flags(tests) => self.flags_of(raw, tests),
        };
        let Some(table) = field.table else {
            return value;
        };
        // What lies past the table's end is 0.
        let zero = self.c(0);
        if table.is_empty() {
            return zero;
        }
        let len = self.c(table.len() as i64);
        let inside = self.b.ins().icmp(IntCC::UnsignedLessThan, value, len);
        let index = self.b.ins().select(inside, value, zero);
        let at = self.b.ins().ishl_imm_s(index, 2);
        let base = self.c(table.as_ptr().expose_provenance() as i64);
        let entry = self.b.ins().iadd(base, at);
        let flags = self.regions.hints;
        let entry = self.load_zero_extended(flags, entry, 0, 4);
        self.b.ins().select(inside, entry, zero)
    }
}
