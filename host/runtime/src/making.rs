//! Makes instances: the memory and the slots that one needs, and why there is none.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use wambda_model::limits::SHARE_PARTS;
use wambda_model::{
    FunctionError, InvokeError, KillReason, RequestId, Short, ThrottleReason, Version,
};

use crate::call;
use crate::drive::Guarded;
use crate::engine::EngineKind;
use crate::executor::Inner;
use crate::instance::{Instance, Mold, Seats};
use crate::limiter::Denied;
use crate::meter::Meter;
use crate::pool::{Ready, Unit};
use crate::sink::Sink;

/// Why there is no instance.
const NO_MEMORY: &str = "the memory budget of the server is used up";

/// What an instance is made for.
pub(crate) struct Order {
    pub(crate) id: RequestId,
    /// Armed when the instance is made.
    pub(crate) meter: Arc<Meter>,
    pub(crate) sink: Arc<Sink>,
    /// Before anybody needs it.
    pub(crate) ahead: bool,
}

impl Inner {
    /// Makes an instance on an armed meter. The inner error is the guest's, the outer the platform's.
    /// One that is made ahead of time takes what is free, and evicts nobody for it.
    pub(crate) async fn instantiate(
        &self,
        unit: &Unit,
        ready: &Ready,
        order: &Order,
    ) -> Result<Result<Box<Instance>, FunctionError>, InvokeError> {
        let (version, Order { id, meter, sink, ahead }) = (&unit.version, order);
        let engine = self.engines.get(ready.engine);
        let mold = Mold {
            engine: engine.ok_or_else(|| InvokeError::Internal("engine is off".to_owned()))?,
            prepared: &ready.prepared,
            opt: ready.opt.as_ref(),
            version,
            region: &self.region,
            egress: &self.egress,
            sink,
            ahead: *ahead,
        };
        loop {
            // Before it begins: who fails half way has worked for nothing.
            let mut charge = self.budget.charge(&version.share.memory);
            let room = charge.reserve(unit.expected_bytes(), !ahead);
            room.map_err(|short| self.no_memory(version, short, *ahead))?;
            let seats = loop {
                match self.seats(version, ready) {
                    Ok(seats) => break seats,
                    // Its own idle instances make room.
                    Err(_) if !ahead && self.shed_one(Some(&version.share.memory)) => {}
                    Err(value) => return Err(self.no_slots(version, ready, value, *ahead)),
                }
            };
            let cast = pin!(mold.cast(Arc::clone(meter), charge, seats));
            let Ok(made) = Guarded::new(cast, meter, self.ticker(), version).await else {
                return Ok(Err(call::clocked(KillReason::Timeout, *id, version, meter)));
            };
            let stillborn = match made {
                Ok(instance) => {
                    unit.note_least_bytes(instance.store.data().limiter.bytes());
                    return Ok(Ok(Box::new(instance)));
                }
                Err(stillborn) => stillborn,
            };
            let state = stillborn.store.data();
            if let Some(Denied::Budget(short)) = state.limiter.denied() {
                return Err(self.no_memory(version, short, *ahead));
            }
            if !stillborn.error.is::<wasmtime::PoolConcurrencyLimitError>() {
                return Ok(Err(call::failure(&stillborn.error, state, *id, version)));
            }
            drop(stillborn);
            if *ahead || !self.shed_one(None) {
                let what = "every instance slot of the server is in use".to_owned();
                return Err(InvokeError::Unavailable(what));
            }
        }
    }

    /// Why there is no memory for an instance.
    fn no_memory(&self, version: &Version, short: Short, ahead: bool) -> InvokeError {
        match short {
            Short::All => InvokeError::Unavailable(NO_MEMORY.to_owned()),
            Short::Own(value) => {
                if !ahead {
                    version.metrics.throttled(ThrottleReason::Memory);
                }
                refused(ThrottleReason::Memory, self.budget.each(), value)
            }
        }
    }

    /// Slots for one more instance. A function has three quarters of them at most, so that it is not alone.
    fn seats(&self, version: &Version, ready: &Ready) -> Result<Seats, u32> {
        let [main, concurrent] = &version.share.slots;
        let taken = if ready.engine == EngineKind::Main { main } else { concurrent };
        Seats::take(taken, ready.slots, self.slots_each(ready))
    }

    /// Slots that one function may have.
    fn slots_each(&self, ready: &Ready) -> u32 {
        let (part, of) = SHARE_PARTS;
        let slots = u64::from(self.engines.slots(ready.engine));
        u32::try_from(slots / of * part).unwrap_or(u32::MAX)
    }

    /// Why there are no slots for an instance: the function would have `value`.
    fn no_slots(&self, version: &Version, ready: &Ready, value: u32, ahead: bool) -> InvokeError {
        if !ahead {
            version.metrics.throttled(ThrottleReason::Instances);
        }
        refused(ThrottleReason::Instances, self.slots_each(ready).into(), value.into())
    }
}

fn refused(reason: ThrottleReason, limit: u64, value: u64) -> InvokeError {
    let retry_after = Duration::from_secs(1);
    InvokeError::Throttled { reason, limit, value, reserved: false, retry_after }
}
