//! Reading: fetches of whole batches, and readers that go from one batch to the next.

mod fetch;
mod reader;

pub use self::fetch::{Fetch, FetchOptions, FileRegion};
pub(crate) use self::fetch::{fetch, offset_for};
pub use self::reader::Reader;
