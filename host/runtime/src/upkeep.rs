//! The upkeep of idle instances: those that are made ahead of time, and those that make room.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::task::JoinHandle;
use wambda_model::RequestId;

use crate::drive::{Drive, Panicked};
use crate::executor::Inner;
use crate::instance::{Instance, Kept};
use crate::making::Order;
use crate::meter::Meter;
use crate::pool::{Fault, Unit};
use crate::sink::Sink;
use crate::transit::UnderWay;

/// Memory of an instance that is given back without a thread of its own.
const INLINE_DROP_BYTES_MAX: u64 = 8 << 20;

impl Inner {
    /// Retires the least recently used idle instance, of all versions or of those of the function whose memory is counted
    /// here. False when there is none.
    pub(crate) fn shed_one(&self, own: Option<&Arc<AtomicU64>>) -> bool {
        let units = self.units.pin();
        let is_meant =
            |unit: &&Arc<Unit>| own.is_none_or(|own| Arc::ptr_eq(own, &unit.version.share.memory));
        let oldest = || {
            let meant = units.values().filter(is_meant);
            meant.filter_map(|u| u.oldest_idle().map(|at| (at, u))).min_by_key(|(at, _)| *at)
        };
        // Somebody else may take it first, and then there is another one.
        while let Some((_, unit)) = oldest() {
            let _under_way = self.transit.set_out(&unit.version);
            if unit.shed().is_some() {
                return true;
            }
        }
        false
    }

    /// Makes the idle instances that `unit` wants, one after the other on this core, until one fails.
    pub(crate) async fn refill(self: Arc<Self>, unit: Arc<Unit>) {
        // Who comes meanwhile leaves it to this one, which looks once more when it has let go.
        while self.refill_while_short(&unit).await && unit.wants_more() {}
    }

    /// False when one failed, or somebody does this already.
    async fn refill_while_short(self: &Arc<Self>, unit: &Arc<Unit>) -> bool {
        let Some(_mine) = unit.refilling() else { return false };
        let mut first = true;
        while let Some(making) = unit.make_one() {
            // Making one may not have waited for anything.
            if !std::mem::take(&mut first) {
                tokio::task::yield_now().await;
            }
            let made = Arc::clone(self).prewarm(Arc::clone(unit)).await;
            let is_good = made.is_ok();
            match made {
                Ok(instance) => drop(unit.add_virgin(instance)),
                Err(fault) => unit.note_stillborn(fault),
            }
            drop(making);
            self.transit.made(&unit.version.share);
            if !is_good {
                return false;
            }
        }
        true
    }

    /// One instance ahead of time, within the limits of an invocation.
    async fn prewarm(self: Arc<Self>, unit: Arc<Unit>) -> Result<Box<Instance>, Fault> {
        let mut order = Order {
            id: RequestId::random(),
            meter: Arc::new(Meter::new()),
            sink: Sink::new(&unit.version),
            until: None,
            patience: None,
        };
        let (meter, long_run) = (Arc::clone(&order.meter), self.long_run.clone());
        let name = unit.version.name.clone();
        let make = Box::pin(async move {
            let ready = self.ready(&unit).await?;
            self.instantiate(&unit, &ready, &mut order).await
        });
        match Drive::new(make, meter, long_run, false).await {
            Ok(Ok(Ok(instance))) => Ok(instance),
            Ok(Ok(Err(error))) => {
                tracing::info!(function = %name, %error, "cannot prewarm");
                Err(Fault::Guest)
            }
            Ok(Err(error)) => {
                tracing::debug!(function = %name, %error, "no room to prewarm");
                Err(Fault::Platform)
            }
            Err(Panicked) => Err(Fault::Guest),
        }
    }

    /// Drops instances where it does not hold anybody up: giving memory back takes a while.
    pub(crate) fn dispose(&self, unit: &Unit, instances: Vec<Kept>) {
        if !instances.is_empty() {
            drop(drop_elsewhere(instances, self.transit.set_out(&unit.version)));
        }
    }

    /// An instance whose call has ended goes, and others are made in its stead.
    pub(crate) async fn replace(
        self: Arc<Self>,
        unit: Arc<Unit>,
        instance: Kept,
        under_way: UnderWay,
    ) {
        if instance.store.data().limiter.bytes() > INLINE_DROP_BYTES_MAX {
            // There may be no room before it is gone.
            let _ = drop_elsewhere(vec![instance], under_way).await;
        } else {
            drop(instance);
            drop(under_way);
        }
        self.refill(unit).await;
    }
}

fn drop_elsewhere(instances: Vec<Kept>, under_way: UnderWay) -> JoinHandle<()> {
    tokio::task::spawn_blocking(move || {
        drop(instances);
        drop(under_way);
    })
}
