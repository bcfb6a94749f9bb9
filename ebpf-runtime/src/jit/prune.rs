//! Takes out what nothing uses. Cranelift keeps every load; when bytes were loaded together after all, those of the single
//! bytes remain.

use cranelift_codegen::ir::{Function, Inst, Opcode};

/// Removes loads whose results nothing needs, and what only they needed.
pub(super) fn prune(func: &mut Function) {
    let blocks: Vec<_> = func.layout.blocks().collect();
    let insts: Vec<Inst> = blocks
        .iter()
        .flat_map(|block| func.layout.block_insts(*block))
        .collect();
    let mut uses = vec![0u32; func.dfg.num_values()];
    for inst in &insts {
        for value in func.dfg.inst_values(*inst) {
            uses[func.dfg.resolve_aliases(value).as_u32() as usize] += 1;
        }
    }
    let mut todo = insts;
    while let Some(inst) = todo.pop() {
        let used = func
            .dfg
            .inst_results(inst)
            .iter()
            .any(|value| uses[value.as_u32() as usize] != 0);
        if used || !removable(func, inst) {
            continue;
        }
        let operands: Vec<_> = func.dfg.inst_values(inst).collect();
        func.layout.remove_inst(inst);
        for value in operands {
            let value = func.dfg.resolve_aliases(value);
            let count = &mut uses[value.as_u32() as usize];
            *count -= 1;
            if *count == 0
                && let Some(inst) = func.dfg.value_def(value).inst()
            {
                todo.push(inst);
            }
        }
    }
}

fn removable(func: &Function, inst: Inst) -> bool {
    let op = func.dfg.insts[inst].opcode();
    let pure = !(op.can_load() || op.can_store() || op.can_trap() || op.other_side_effects())
        && !(op.is_terminator() || op.is_branch() || op.is_call());
    (is_load(op) || pure) && func.layout.inst_block(inst).is_some()
}

/// Plain loads. Those that the translator makes cannot trap.
pub(super) fn is_load(op: Opcode) -> bool {
    matches!(
        op,
        Opcode::Load
            | Opcode::Uload8
            | Opcode::Uload16
            | Opcode::Uload32
            | Opcode::Sload8
            | Opcode::Sload16
            | Opcode::Sload32
    )
}
