//! The order of instructions within blocks, once cranelift's optimiser is through.
//!
//! The optimiser computes each number right before it is used first, but leaves loads where they were. Many loads in a row, as
//! of a loop that was laid out, would hold a register each until the end; here each goes to its first use.

use std::collections::HashMap;

use cranelift_codegen::cursor::{Cursor, FuncCursor};
use cranelift_codegen::ir::{Block, Function, Inst, InstBuilder, InstructionData, Opcode, Value, types};

use super::prune::is_load;

/// How often a large constant is a factor in a block before it is worth a register.
const OFTEN: usize = 4;

/// Orders each block's instructions.
pub(super) fn schedule(func: &mut Function) {
    let blocks: Vec<Block> = func.layout.blocks().collect();
    for block in blocks {
        let insts: Vec<Inst> = func.layout.block_insts(block).collect();
        sink_loads(func, &insts);
        keep_factors(func, &insts);
    }
}

/// What no load may be moved across: whatever writes memory, and loads that others order by.
fn is_barrier(op: Opcode) -> bool {
    let orders = matches!(
        op,
        Opcode::AtomicLoad | Opcode::AtomicRmw | Opcode::AtomicCas | Opcode::Fence
    );
    orders || op.can_store() || op.is_call() || op.other_side_effects()
}

fn sink_loads(func: &mut Function, insts: &[Inst]) {
    let mut first_use: HashMap<Value, usize> = HashMap::new();
    let mut barrier = insts.len();
    let mut moves = Vec::new();
    // Upwards, so that a load whose address was loaded takes the other along.
    for (i, inst) in insts.iter().enumerate().rev() {
        let op = func.dfg.insts[*inst].opcode();
        if is_load(op)
            && let Some(user) = first_use.get(&func.dfg.first_result(*inst))
            && (i + 2..=barrier).contains(user)
        {
            moves.push((*inst, insts[*user]));
        }
        if is_barrier(op) {
            barrier = i;
        }
        for value in func.dfg.inst_values(*inst) {
            first_use.insert(func.dfg.resolve_aliases(value), i);
        }
    }
    for (inst, before) in moves {
        func.layout.remove_inst(inst);
        func.layout.insert_inst(inst, before);
    }
}

/// Factors that no instruction can hold are read from memory each time; those used often get a register instead, by way of
/// an operation that is not computed at compile time any more.
fn keep_factors(func: &mut Function, insts: &[Inst]) {
    let mut uses: HashMap<i64, Vec<(Inst, usize)>> = HashMap::new();
    for inst in insts {
        if func.dfg.insts[*inst].opcode() != Opcode::Imul {
            continue;
        }
        for (i, value) in func.dfg.inst_args(*inst).iter().enumerate() {
            if let Some(factor) = large(func, *value) {
                uses.entry(factor).or_default().push((*inst, i));
            }
        }
    }
    for (factor, uses) in uses.into_iter().filter(|(_, uses)| uses.len() >= OFTEN) {
        let mut cursor = FuncCursor::new(func).at_inst(uses[0].0);
        let inverse = cursor.ins().iconst(types::I64, !factor);
        let kept = cursor.ins().bnot(inverse);
        for (inst, i) in uses {
            func.dfg.inst_args_mut(inst)[i] = kept;
        }
    }
}

/// A 64-bit constant that does not fit into an instruction.
fn large(func: &Function, value: Value) -> Option<i64> {
    let inst = func.dfg.value_def(func.dfg.resolve_aliases(value)).inst()?;
    match func.dfg.insts[inst] {
        InstructionData::UnaryImm {
            opcode: Opcode::Iconst,
            imm,
        } if func.dfg.value_type(value) == types::I64 => {
            Some(imm.bits()).filter(|factor| i32::try_from(*factor).is_err())
        }
        _ => None,
    }
}
