//! A volume's device, with a bound on how long each call may take: a device that hangs is an error like one that is gone.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use walb_common::daemon::chain;
use walb_common::rest::{ApiError, ErrorCode};
use walb_common::types::Lsid;
use walb_wdev::client::{
    Changed, DeviceError, DeviceSpec, DeviceStatus, LogChunk, Refusal, Remedy, WalDevice, open,
};

/// Reads and small changes.
const CALL: Duration = Duration::from_secs(10);
/// Calls that write back or sync the data device.
const LONG_CALL: Duration = Duration::from_secs(120);

/// A call to a device failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The device says so, or is not there.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// It does not answer.
    #[error("device {device} did not answer {call} within {} s", after.as_secs())]
    Deadline {
        /// Which device.
        device: String,
        /// Which call.
        call: &'static str,
        /// How long.
        after: Duration,
    },
}

impl CallError {
    /// Whether the device is just away for a moment, mostly because walb-wdev is being restarted.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Device(error) => error.remedy() == Remedy::Retry,
            Self::Deadline { .. } => true,
        }
    }
}

impl From<CallError> for ApiError {
    fn from(error: CallError) -> Self {
        let code = match &error {
            CallError::Device(DeviceError::Refused {
                source: Refusal::NoSuchDevice { .. },
                ..
            }) => ErrorCode::NotFound,
            CallError::Device(DeviceError::Spec(_) | DeviceError::Unsupported { .. }) => {
                ErrorCode::BadRequest
            }
            _ => ErrorCode::Unavailable,
        };
        ApiError::new(code, chain(&error))
    }
}

/// See the module.
#[derive(Clone)]
pub struct Device {
    spec: DeviceSpec,
    inner: Arc<dyn WalDevice>,
}

impl Device {
    /// The device that `spec` names; connects nothing yet.
    pub fn open(spec: DeviceSpec) -> Result<Self, DeviceError> {
        let inner = open(&spec)?;
        Ok(Self { spec, inner })
    }

    /// What it is called.
    pub fn spec(&self) -> &DeviceSpec {
        &self.spec
    }

    async fn within<T>(
        &self,
        call: &'static str,
        after: Duration,
        work: impl Future<Output = Result<T, DeviceError>>,
    ) -> Result<T, CallError> {
        match timeout(after, work).await {
            Ok(result) => result.map_err(CallError::Device),
            Err(_) => Err(CallError::Deadline {
                device: self.spec.to_string(),
                call,
                after,
            }),
        }
    }

    pub async fn status(&self) -> Result<DeviceStatus, CallError> {
        self.within("status", CALL, self.inner.status()).await
    }

    pub async fn wait_for_log(&self, after: Lsid, within: Duration) -> Result<Lsid, CallError> {
        self.within(
            "wait-for-log",
            within + CALL,
            self.inner.wait_for_log(after, within),
        )
        .await
    }

    pub async fn read_log(&self, from: Lsid, limit: Lsid, max_bytes: usize) -> Result<LogChunk, CallError> {
        self.within("read-log", CALL, self.inner.read_log(from, limit, max_bytes))
            .await
    }

    pub async fn set_oldest(&self, lsid: Lsid) -> Result<(), CallError> {
        self.within("set-oldest", LONG_CALL, self.inner.set_oldest(lsid))
            .await
    }

    pub async fn reset_log(&self) -> Result<DeviceStatus, CallError> {
        self.within("reset-log", LONG_CALL, self.inner.reset_log()).await
    }

    pub async fn read_data(&self, offset: u64, len: u32) -> Result<Bytes, CallError> {
        self.within("read-data", LONG_CALL, self.inner.read_data(offset, len))
            .await
    }

    pub async fn changed(&self) -> Result<Changed, CallError> {
        self.within("changed", LONG_CALL, self.inner.changed()).await
    }

    pub async fn forget_changed(&self) -> Result<(), CallError> {
        self.within("forget-changed", CALL, self.inner.forget_changed())
            .await
    }

    pub async fn flush(&self) -> Result<(), CallError> {
        self.within("flush", LONG_CALL, self.inner.flush()).await
    }

    pub async fn checkpoint(&self) -> Result<(), CallError> {
        self.within("checkpoint", LONG_CALL, self.inner.checkpoint())
            .await
    }
}
