//! Reports the unfinished request of one stream: its bytes to the budget of the connection, its time to the watchdog.

use std::sync::Arc;

use crate::xds::error::Error;
use crate::xds::stream::budget::Account;
use crate::xds::stream::in_flight::Cell;

/// See the module.
#[derive(Debug)]
pub(in crate::xds) struct Meter {
    account: Arc<Account>,
    cell: Arc<Cell>,
    bytes: usize,
    /// The time of the request runs.
    runs: bool,
}

impl Meter {
    pub(in crate::xds) fn new(account: &Arc<Account>, cell: &Arc<Cell>) -> Self {
        Self {
            account: Arc::clone(account),
            cell: Arc::clone(cell),
            bytes: 0,
            runs: false,
        }
    }

    /// Stop the time of the request: it is complete, or the server reads no more for now. If bytes of a request are
    /// here already, the time begins anew at the next report.
    pub(in crate::xds) fn stop_time(&mut self) {
        if std::mem::take(&mut self.runs) {
            self.cell.request_began(false);
        }
    }

    /// The stream waits for more bytes and keeps this many.
    ///
    /// # Errors
    /// The connection keeps more than its budget.
    pub(in crate::xds) fn waits(&mut self, bytes: usize) -> Result<(), Error> {
        if bytes == 0 && self.bytes == 0 {
            return Ok(());
        }
        if bytes > 0 && !self.runs {
            self.runs = true;
            self.cell.request_began(true);
        }
        self.set(bytes);
        self.account.check(bytes)
    }

    fn set(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        self.account.keep(before, bytes);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.set(0);
    }
}
