//! Cheap linear checks that keep known compile bombs away from the compiler. The child process is
//! the wall; these spare its time.

use wambda_model::limits::{
    FUNCTION_BODY_BYTES_MAX, LOCALS_TIMES_IFS_MAX, LOCALS_TIMES_LOOPS_MAX, MODULE_FUNCTIONS_MAX,
};
use wasmparser::{BinaryReaderError, CompositeInnerType, FunctionBody, Operator, Payload};

/// The number of functions of a module.
pub(crate) fn functions(count: u32) -> Result<(), String> {
    if count <= MODULE_FUNCTIONS_MAX {
        return Ok(());
    }
    Err(format!("a module may have {MODULE_FUNCTIONS_MAX} functions, got {count}"))
}

/// What is known of a module while it is read: the number of parameters of its types and of its functions.
#[derive(Debug, Default)]
pub(crate) struct Signatures {
    types: Vec<u32>,
    functions: std::vec::IntoIter<u32>,
}

impl Signatures {
    /// Notes what a section says.
    pub(crate) fn note(&mut self, payload: &Payload<'_>) -> Result<(), BinaryReaderError> {
        match payload {
            Payload::TypeSection(section) => {
                for group in section.clone() {
                    let params = group?.into_types().map(|sub| match sub.composite_type.inner {
                        CompositeInnerType::Func(function) => function.params().len() as u32,
                        _ => 0,
                    });
                    self.types.extend(params);
                }
            }
            Payload::FunctionSection(section) => {
                let of = |index: u32| self.types.get(index as usize).copied().unwrap_or(0);
                let functions = section.clone().into_iter().map(|index| index.map(of));
                self.functions = functions.collect::<Result<Vec<u32>, _>>()?.into_iter();
            }
            _ => {}
        }
        Ok(())
    }

    /// Parameters of the function whose body comes next.
    pub(crate) fn next(&mut self) -> u32 {
        self.functions.next().unwrap_or(0)
    }
}

/// One function body: its size, and its parameters and locals against its loops and branches.
pub(crate) fn body(body: &FunctionBody<'_>, params: u32) -> Result<(), String> {
    let size = body.range().len();
    if size > FUNCTION_BODY_BYTES_MAX {
        return Err(format!(
            "a function body may have {FUNCTION_BODY_BYTES_MAX} bytes, got {size}"
        ));
    }
    let text = |e: BinaryReaderError| e.to_string();
    let mut locals = u64::from(params);
    for group in body.get_locals_reader().map_err(text)? {
        locals += u64::from(group.map_err(text)?.0);
    }
    // Two bytes open a block, so that small bodies need no walk.
    if locals * (size as u64 / 2) <= LOCALS_TIMES_LOOPS_MAX {
        return Ok(());
    }
    let (mut open, mut depth, mut deepest, mut ifs) = (Vec::new(), 0u64, 0u64, 0u64);
    for operator in body.get_operators_reader().map_err(text)? {
        match operator.map_err(text)? {
            Operator::Loop { .. } => {
                open.push(true);
                depth += 1;
                deepest = deepest.max(depth);
            }
            Operator::If { .. } => {
                open.push(false);
                ifs += 1;
            }
            Operator::Block { .. } | Operator::TryTable { .. } => open.push(false),
            Operator::End => depth -= u64::from(open.pop() == Some(true)),
            _ => {}
        }
    }
    let (loops, branches) = (locals * deepest, locals * ifs);
    if loops > LOCALS_TIMES_LOOPS_MAX {
        return Err(format!(
            "a function's locals times its loop depth may be {LOCALS_TIMES_LOOPS_MAX}, got {locals} x {deepest}"
        ));
    }
    if branches > LOCALS_TIMES_IFS_MAX {
        return Err(format!(
            "a function's locals times its branches may be {LOCALS_TIMES_IFS_MAX}, got {locals} x {ifs}"
        ));
    }
    Ok(())
}
