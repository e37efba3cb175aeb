//! Bringing the bytes: resumed, tried again, compared.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::digest::Digests;
use crate::http::{Answer, Http, Method, body_reason};
use crate::metadata::{Fault, Metadata, etag, refusal};
use crate::{HubError, HubFile, Pin, Progress, Reason, Result, Retry};

/// Bytes read at a time.
const CHUNK: usize = 1 << 16;

/// Counts failures in a row and waits after each.
pub(crate) struct Patience<'a> {
    retry: &'a Retry,
    key: String,
    failed: u32,
}

impl<'a> Patience<'a> {
    pub(crate) fn new(retry: &'a Retry, file: &HubFile) -> Self {
        Self { retry, key: format!("{}\0{file}", std::process::id()), failed: 0 }
    }

    /// Something was brought: the count begins anew.
    fn rest(&mut self) {
        self.failed = 0;
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// [`HubError::Exhausted`] if there is none.
    pub(crate) fn again(&mut self, file: &HubFile, reason: Reason, progress: &mut dyn FnMut(Progress)) -> Result<()> {
        self.failed += 1;
        let too_long = reason.wait().is_some_and(|wait| wait > self.retry.longest_asked);
        if self.failed >= self.retry.attempts || too_long {
            return Err(HubError::Exhausted { file: file.clone(), attempts: self.failed, reason });
        }
        let pause = self.retry.pause(self.failed, reason.wait(), &self.key);
        progress(Progress::Retrying { reason, pause });
        std::thread::sleep(pause);
        Ok(())
    }
}

/// One file on its way.
pub(crate) struct Transfer<'a> {
    pub(crate) http: &'a Http,
    pub(crate) endpoint: &'a str,
    pub(crate) retry: &'a Retry,
    pub(crate) file: &'a HubFile,
    pub(crate) metadata: &'a Metadata,
    pub(crate) partial: &'a Path,
    pub(crate) pin: Option<&'a Pin>,
}

/// What came of a transfer.
pub(crate) struct Brought {
    pub(crate) digests: Digests,
    /// Bytes that came over the network.
    pub(crate) received: u64,
}

impl Transfer<'_> {
    /// Fills the partial file until it is whole and right.
    ///
    /// # Errors
    /// A typed reason; what has arrived is kept for the next time, unless it is wrong.
    pub(crate) fn bring(&self, progress: &mut dyn FnMut(Progress)) -> Result<Brought> {
        let mut patience = Patience::new(self.retry, self.file);
        let (mut received, mut wrong) = (0, false);
        loop {
            let before = received;
            match self.receive(&mut received, progress) {
                Ok(()) => {
                    progress(Progress::Verifying);
                    let digests = Digests::of(self.partial, Some(&self.metadata.etag))?;
                    match self.check(&digests) {
                        Ok(()) => return Ok(Brought { digests, received }),
                        Err(error) => {
                            // Nothing of it can be trusted. Once it may be a part that somebody else began.
                            std::fs::remove_file(self.partial).map_err(|e| self.disk("remove", e))?;
                            if wrong {
                                return Err(error);
                            }
                            wrong = true;
                            progress(Progress::Restarting);
                        }
                    }
                }
                Err(Fault::Fatal(error)) => return Err(error),
                Err(Fault::Again(reason)) => {
                    if received > before {
                        patience.rest();
                    }
                    patience.again(self.file, reason, progress)?;
                }
            }
        }
    }

    fn check(&self, digests: &Digests) -> Result<()> {
        let file = self.file.clone();
        if let Some((algorithm, expected, found)) = digests.differ(&self.metadata.etag) {
            return Err(HubError::Checksum { file, algorithm, expected, found });
        }
        match self.pin {
            Some(pin) if pin.sha256 != digests.sha256 => {
                Err(HubError::PinMismatch { file, pinned: pin.sha256.clone(), found: digests.sha256.clone() })
            }
            _ => Ok(()),
        }
    }

    fn disk(&self, action: &'static str, source: io::Error) -> HubError {
        HubError::Disk { action, path: self.partial.to_owned(), source }
    }

    /// One request, from where the partial file ends to the end of the file.
    fn receive(&self, received: &mut u64, progress: &mut dyn FnMut(Progress)) -> std::result::Result<(), Fault> {
        let fatal = |action| move |e| Fault::Fatal(self.disk(action, e));
        let open = OpenOptions::new().create(true).read(true).write(true).truncate(false).open(self.partial);
        let mut partial = open.map_err(fatal("open"))?;
        let mut have = partial.seek(SeekFrom::End(0)).map_err(fatal("read"))?;
        let size = self.metadata.size;
        if size.is_some_and(|size| have > size) {
            restart(&mut partial).map_err(fatal("write"))?;
            have = 0;
        }
        progress(Progress::Started { done: have, total: size });
        if size == Some(have) {
            return Ok(());
        }
        let method = Method::Get { from: have };
        let answer = self.http.request(method, &self.file.address(&self.metadata.commit)).map_err(Fault::Again)?;
        let total = match self.judge(&answer, have)? {
            Body::Rest { total } => total,
            Body::Whole { total } => {
                if have > 0 {
                    restart(&mut partial).map_err(fatal("write"))?;
                }
                have = 0;
                total
            }
            Body::NoSuchRange => {
                restart(&mut partial).map_err(fatal("write"))?;
                return Err(Fault::Again(Reason::Odd("the server refuses to resume".into())));
            }
        };
        self.copy(answer, &mut partial, have, total, received, progress)
    }

    /// What the body of an answer is.
    fn judge(&self, answer: &Answer, have: u64) -> std::result::Result<Body, Fault> {
        let again = |reason: &str| Fault::Again(Reason::Odd(reason.to_owned()));
        let status = answer.status();
        if !matches!(status, 200 | 206 | 416) {
            return Err(refusal(answer, self.file, self.endpoint, self.http.has_token()));
        }
        if etag(answer).is_some_and(|etag| etag != self.metadata.etag) {
            return Err(again("the file changed while it was fetched"));
        }
        let length = answer.header("content-length").and_then(|text| text.parse().ok());
        let wrong = |found| self.metadata.size.filter(|&size| size != found);
        let announced = match status {
            416 => return Ok(Body::NoSuchRange),
            200 => length,
            _ => {
                let range = answer.header("content-range").and_then(content_range);
                let (start, total) = range.ok_or_else(|| again("a part without a readable Content-Range"))?;
                if start != have {
                    return Err(again("another part of the file than was asked for"));
                }
                total
            }
        };
        if let Some((expected, found)) = announced.and_then(|found| Some((wrong(found)?, found))) {
            return Err(Fault::Again(Reason::WrongSize { expected, found }));
        }
        let total = self.metadata.size.or(announced);
        Ok(if status == 200 { Body::Whole { total } } else { Body::Rest { total } })
    }

    fn copy(
        &self,
        answer: Answer,
        partial: &mut File,
        mut done: u64,
        total: Option<u64>,
        received: &mut u64,
        progress: &mut dyn FnMut(Progress),
    ) -> std::result::Result<(), Fault> {
        let fatal = |action| move |e| Fault::Fatal(self.disk(action, e));
        let mut body = answer.response.into_body().into_reader();
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Fault::Again(lost(&error, done, total))),
            };
            partial.write_all(&buffer[..read]).map_err(fatal("write"))?;
            done += read as u64;
            *received += read as u64;
            if let Some(expected) = total.filter(|&expected| done > expected) {
                restart(partial).map_err(fatal("write"))?;
                return Err(Fault::Again(Reason::WrongSize { expected, found: done }));
            }
            progress(Progress::Bytes { done, total });
        }
        partial.sync_all().map_err(fatal("write"))?;
        match total {
            Some(expected) if done < expected => Err(Fault::Again(Reason::Truncated { expected, received: done })),
            _ => Ok(()),
        }
    }
}

/// What an answer to `GET` holds.
enum Body {
    /// What is missing.
    Rest { total: Option<u64> },
    /// The file from its first byte on.
    Whole { total: Option<u64> },
    /// Nothing: the range lies outside the file.
    NoSuchRange,
}

/// Empties the file.
fn restart(partial: &mut File) -> io::Result<()> {
    partial.set_len(0)?;
    partial.seek(SeekFrom::Start(0)).map(drop)
}

/// Why a body ended before its end.
fn lost(error: &io::Error, done: u64, total: Option<u64>) -> Reason {
    match (body_reason(error), total) {
        (Reason::Stalled, _) => Reason::Stalled,
        (_, Some(expected)) => Reason::Truncated { expected, received: done },
        (reason, None) => reason,
    }
}

/// First byte and size of the whole, of `bytes 3-9/10` or `bytes 3-9/*`.
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let start = range.split_once('-')?.0.trim().parse().ok()?;
    let total = if total.trim() == "*" { None } else { Some(total.trim().parse().ok()?) };
    Some((start, total))
}

#[cfg(test)]
mod tests {
    use super::content_range;

    #[test]
    fn ranges_are_read() {
        assert_eq!(content_range("bytes 3-9/10"), Some((3, Some(10))));
        assert_eq!(content_range("bytes 0-0/*"), Some((0, None)));
        for bad in ["bytes */10", "3-9/10", "bytes 3-9", "bytes a-9/10", "bytes 3-9/x"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
