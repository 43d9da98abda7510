//! The platform's own services, as functions call them: connections that no network carries.

use std::sync::{Arc, OnceLock, Weak};

use tokio::io::DuplexStream;
use tokio::runtime::Handle;
use wambda_api::Api;
use wambda_api::within::Within;
use wambda_egress::Services;
use wambda_model::Version;
use wambda_model::limits::INSIDE_BUFFER_BYTES;

use crate::serving::{self, Open};

/// Where functions' calls to the platform end.
pub(crate) struct Inside {
    open: Arc<Open>,
    /// What answers, and where it runs. The API holds what holds this.
    desk: OnceLock<(Weak<Api>, Handle)>,
}

impl Inside {
    /// Connections are among those that are `open`.
    pub(crate) fn new(open: &Arc<Open>) -> Self {
        Self { open: Arc::clone(open), desk: OnceLock::new() }
    }

    /// From now on this API answers, on this runtime.
    pub(crate) fn answer(&self, api: &Arc<Api>, runtime: Handle) {
        let _ = self.desk.set((Arc::downgrade(api), runtime));
    }

    /// The connections that are open, these and others.
    pub(crate) fn open(&self) -> &Arc<Open> {
        &self.open
    }
}

impl Services for Inside {
    fn connect(&self, caller: &Arc<Version>) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(INSIDE_BUFFER_BYTES);
        // Nobody answers before the server has begun: the other end is closed.
        if let Some((api, runtime)) = self.desk.get()
            && let Some(api) = api.upgrade()
        {
            runtime.spawn(serving::serve_function(&self.open, api, ours, Within::new(caller)));
        }
        theirs
    }
}
