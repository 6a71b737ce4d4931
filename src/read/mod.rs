//! Reading: fetches of whole batches, and readers that go from one batch to the next.

mod fetch;
mod reader;
mod start;
#[cfg(feature = "async")]
mod stream;

pub use self::fetch::{Fetch, FetchOptions, FileRegion};
pub(crate) use self::fetch::{fetch, offset_for};
pub use self::reader::{OwnedRecords, Reader};
pub use self::start::Start;
#[cfg(feature = "async")]
pub use self::stream::Tail;
