//! The collection of garbage: what no image needs any more is condemned, and removed a grace later if it still is
//! needed by none.
//!
//! One round does both for whatever it finds:
//!
//! 1. the lists of marks are read ([`condemned`](super::condemned));
//! 2. all repositories are looked through: images that retention lets go; what the others are made of; and which
//!    links, manifests and, at last, blobs none of them refers to;
//! 3. of these, what was marked already before the round began, for longer than the grace, is removed; what has no
//!    mark gets one; and whatever is needed again loses it.
//!
//! So nothing is removed that two looks, a grace apart, have not found without use, the second of which began when its
//! mark stood. Why that is right with publishers at work:
//!
//! - a publisher takes the marks off everything it is about to refer to, whether it puts it or finds it
//!   ([`spare`](super::condemned::spare)): it then has a whole grace to write its tag;
//! - before it writes the tag it takes them off once more, and sees that all is there; and after the tag is on disk
//!   again. A collector that has not seen the tag has then either not marked yet, and will see the tag before it
//!   removes; or its mark is found and taken off; or it was faster, and the publisher notices and takes its tag back.
//!   So the order of steps decides, and nobody's clock: the grace is what keeps publishers from being disturbed. Its
//!   length counts in one place: a worker that stalls between its looks for a whole grace, and ends between the tag and
//!   the second look, leaves a tag whose content may have gone. So the usual grace is longer than any publish;
//! - a mark is taken off, and what is marked removed, by one who holds the lock of the lists and has found the list
//!   as it was. In an object store, which has no locks, a line in the list says that a removal goes on, and whoever
//!   reads it waits until it is gone.
//!
//! The same holds for several collectors at once; that there is only one, by a lease, saves work. A round that is killed
//! leaves marks and nothing half done; in an object store that line as well, for which others wait until it is plain that
//! nothing is removed any more (`store/backend/objects/conditional.rs`).
//!
//! What cannot be read is never taken for garbage, and the round goes on with the rest. Of a manifest or a tag that cannot
//! be read everything is kept that its repository links: an image can be pulled through these links alone, whatever its
//! tag or an index says. Where it is the links that cannot be listed, or a folder in which there may be repositories, any
//! blob may be somebody's: then none is marked or removed, and marks stand as they are.

mod expiry;
mod live;
mod report;
mod retention;
mod round;
mod settling;

pub use report::{Collected, Going, ImageGone, Sum, Unreadable};
pub use retention::{AskAgain, InUse, Keep, Retention, RetentionConfig};
pub use round::Collection;
