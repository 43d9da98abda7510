//! What functions have for themselves of the account's concurrency. Every surface asks here before
//! a function gets more, under the commit lock.

use wambda_model::gate::unreserved_min;
use wambda_model::{Details, Draft, Function, LATEST};

use crate::functions::Functions;
use crate::totals;

/// More than the account has to give.
#[derive(Debug, thiserror::Error)]
#[error(
    "concurrency must leave {least} of the account's {limit} to functions without a reservation: \
     of the {left} that other functions leave, {wanted} were asked for"
)]
pub struct Overdrawn {
    /// What the function would have had.
    pub wanted: u64,
    /// What all other functions leave.
    pub left: u64,
    /// The account's concurrency.
    pub limit: u32,
    /// What has to be left.
    pub least: u32,
}

/// Why a draft's concurrency is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The account lacks as much.
    #[error(transparent)]
    Overdrawn(#[from] Overdrawn),
    /// Provisioned instances would run beyond the reservation.
    #[error(
        "concurrency must be at least the {provisioned} that are provisioned for the function's versions, got {reserved}"
    )]
    Provisioned {
        /// What was asked for.
        reserved: u64,
        /// What all versions have.
        provisioned: u64,
    },
}

/// What a function has provisioned, of all its versions.
#[must_use]
pub fn provisioned(details: &Details) -> u64 {
    details.provisioned.values().map(|kept| u64::from(kept.count)).sum()
}

impl Functions {
    /// Whether a function may have `wanted` of the account's concurrency, reserved or else
    /// provisioned. It may always have none, and what it has.
    ///
    /// # Errors
    /// [`Overdrawn`], when too little would be left.
    pub fn check_concurrency(
        &self,
        known: Option<&Function>,
        wanted: u64,
    ) -> Result<(), Overdrawn> {
        let has = known.map_or(0, totals::reserved);
        let (limit, _) = self.concurrency();
        let taken_by_others = self.totals().reserved().saturating_sub(has);
        let (left, least) =
            (u64::from(limit).saturating_sub(taken_by_others), unreserved_min(limit));
        if wanted <= has || wanted.saturating_add(u64::from(least)) <= left {
            return Ok(());
        }
        Err(Overdrawn { wanted, left, limit, least })
    }

    /// The same for what a draft says.
    pub(crate) fn check_draft(
        &self,
        known: Option<&Function>,
        draft: &Draft,
    ) -> Result<(), Refused> {
        let numbered = known.into_iter().flat_map(|function| &function.details.provisioned);
        let numbered = numbered.filter(|(qualifier, _)| *qualifier != LATEST);
        let numbered: u64 = numbered.map(|(_, kept)| u64::from(kept.count)).sum();
        let provisioned = numbered + u64::from(draft.provisioned);
        if let Some(reserved) = draft.reserved.map(u64::from).filter(|own| *own < provisioned) {
            return Err(Refused::Provisioned { reserved, provisioned });
        }
        Ok(self.check_concurrency(known, draft.reserved.map_or(provisioned, u64::from))?)
    }
}
