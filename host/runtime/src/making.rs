//! Makes instances: the memory and the slots that one needs, and why there is none.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wambda_model::limits::SHARE_PARTS;
use wambda_model::{
    Charge, FunctionError, InvokeError, KillReason, RequestId, Short, ThrottleReason, Version,
    clock,
};

use crate::call;
use crate::drive::Guarded;
use crate::engine::EngineKind;
use crate::executor::Inner;
use crate::instance::{Instance, Mold, Seats};
use crate::limiter::Denied;
use crate::meter::{Meter, since_origin};
use crate::pool::{Ready, Unit};
use crate::sink::Sink;
use crate::transit::{Patience, Whose};

/// Why there is no instance.
const NO_MEMORY: &str = "the memory budget of the server is used up";

/// What there is no room in.
enum NoRoom {
    Memory(Short),
    /// The function would have so many slots.
    Slots(u32),
}

impl NoRoom {
    fn whose(&self) -> Whose {
        match self {
            Self::Memory(short) => Whose::of(*short),
            Self::Slots(_) => Whose::Own,
        }
    }
}

/// What an instance is made for.
pub(crate) struct Order<'a> {
    pub(crate) id: RequestId,
    /// Armed once there is room.
    pub(crate) meter: Arc<Meter>,
    pub(crate) sink: Arc<Sink>,
    /// When the time of whoever waits for it is over.
    pub(crate) until: Option<Instant>,
    /// What is waited with for room. None before anybody needs it.
    pub(crate) patience: Option<Patience<'a>>,
}

impl Order<'_> {
    /// Waits for room, if there is some to come. Meanwhile the meter stands still.
    async fn wait(&mut self, unit: &Unit, whose: Whose) -> bool {
        let Some(patience) = &mut self.patience else { return false };
        let before = patience.waited();
        let goes_on = patience.wait(whose, || unit.is_making()).await;
        self.meter.postpone(patience.waited() - before, self.until);
        goes_on
    }
}

impl Inner {
    /// Makes an instance, and arms its meter. The inner error is the guest's, the outer the platform's.
    /// One that is made ahead of time takes what is free, and evicts nobody for it.
    pub(crate) async fn instantiate(
        &self,
        unit: &Unit,
        ready: &Ready,
        order: &mut Order<'_>,
    ) -> Result<Result<Box<Instance>, FunctionError>, InvokeError> {
        let (version, meter, sink) =
            (&unit.version, Arc::clone(&order.meter), Arc::clone(&order.sink));
        let ahead = order.patience.is_none();
        let engine = self.engines.get(ready.engine);
        let mold = Mold {
            engine: engine.ok_or_else(|| InvokeError::Internal("engine is off".to_owned()))?,
            prepared: &ready.prepared,
            opt: ready.opt.as_ref(),
            version,
            region: &self.region,
            egress: &self.egress,
            sink: &sink,
            ahead,
        };
        let mut is_armed = false;
        loop {
            let (charge, seats) = match self.room(unit, ready, ahead) {
                Ok(room) => room,
                Err(none) if order.wait(unit, none.whose()).await => continue,
                Err(none) => return Err(self.refusal(version, ready, none, ahead)),
            };
            // Once: what has run of the guest when there were too few slots counts.
            if !std::mem::replace(&mut is_armed, true) {
                let now = clock::now();
                if order.until.is_some_and(|at| at <= now) {
                    return Err(InvokeError::Expired);
                }
                let time = call::time_left(version, order.until, now);
                meter.arm(since_origin(now), time, version.config.cpu(), unit.is_measured());
            }
            let cast = pin!(mold.cast(Arc::clone(&meter), charge, seats));
            let Ok(made) = Guarded::new(cast, &meter, self.ticker(), version).await else {
                return Ok(Err(call::clocked(KillReason::Timeout, order.id, version, &meter)));
            };
            meter.made();
            let stillborn = match made {
                Ok(instance) => {
                    unit.note_least_bytes(instance.store.data().limiter.bytes());
                    return Ok(Ok(Box::new(instance)));
                }
                Err(stillborn) => stillborn,
            };
            let state = stillborn.store.data();
            if let Some(Denied::Budget(short)) = state.limiter.denied() {
                return Err(self.refusal(version, ready, NoRoom::Memory(short), ahead));
            }
            if !stillborn.error.is::<wasmtime::PoolConcurrencyLimitError>() {
                return Ok(Err(call::failure(&stillborn.error, state, order.id, version)));
            }
            drop(stillborn);
            if ahead || !(self.shed_one(None) || order.wait(unit, Whose::All).await) {
                let what = "every instance slot of the server is in use".to_owned();
                return Err(InvokeError::Unavailable(what));
            }
        }
    }

    /// Memory and slots for one more instance.
    fn room(&self, unit: &Unit, ready: &Ready, ahead: bool) -> Result<(Charge, Seats), NoRoom> {
        let own = &unit.version.share.memory;
        let seats = loop {
            match self.seats(&unit.version, ready) {
                Ok(seats) => break seats,
                // Its own idle instances make room.
                Err(_) if !ahead && self.shed_one(Some(own)) => {}
                Err(value) => return Err(NoRoom::Slots(value)),
            }
        };
        // Before it begins: who fails half way has worked for nothing.
        let mut charge = self.budget.charge(own);
        charge.reserve(unit.reserved_bytes(ready), !ahead).map_err(NoRoom::Memory)?;
        Ok((charge, seats))
    }

    /// The answer to whoever gets no instance, counted unless nobody needed it.
    fn refusal(&self, version: &Version, ready: &Ready, none: NoRoom, ahead: bool) -> InvokeError {
        let (reason, limit, value) = match none {
            NoRoom::Memory(Short::All) => return InvokeError::Unavailable(NO_MEMORY.to_owned()),
            NoRoom::Memory(Short::Own(value)) => {
                (ThrottleReason::Memory, self.budget.each(), value)
            }
            NoRoom::Slots(value) => {
                (ThrottleReason::Instances, self.slots_each(ready).into(), value.into())
            }
        };
        if !ahead {
            version.metrics.throttled(reason);
        }
        let retry_after = Duration::from_secs(1);
        InvokeError::Throttled { reason, limit, value, reserved: false, retry_after }
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
}
