//! Reads a load report without decoding it into messages: an empty message is two bytes on the wire and hundreds in
//! memory.

use bytes::Bytes;
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::fleet::load::Load;
use crate::xds::error::Error;

/// Clusters, localities and drop categories of one report: fifty thousand clusters of a few localities.
const ENTRIES_MAX: usize = 250_000;

/// A `LoadStatsRequest`.
#[derive(Debug, Default)]
pub(super) struct Report<'a> {
    /// The encoded node.
    pub(super) node: Option<&'a [u8]>,
    /// The name and the load of each cluster.
    pub(super) clusters: Vec<(&'a str, Load)>,
    entries: usize,
}

/// The value of a field.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of another wire type.
    Other,
}

impl<'a> Report<'a> {
    /// Read a request.
    pub(super) fn read(request: &'a Bytes) -> Result<Self, Error> {
        let mut report = Self::default();
        fields(request, |tag, value| {
            match (tag, value) {
                (1, Value::Bytes(node)) => report.node = Some(node),
                (2, Value::Bytes(cluster)) => {
                    let cluster = report.cluster(cluster)?;
                    report.clusters.push(cluster);
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(report)
    }

    /// Read a `ClusterStats`: the sum over its localities.
    fn cluster(&mut self, cluster: &'a [u8]) -> Result<(&'a str, Load), Error> {
        self.count()?;
        let (mut name, mut load, mut by_category) = ("", Load::default(), 0_u64);
        fields(cluster, |tag, value| {
            match (tag, value) {
                (1, Value::Bytes(bytes)) => name = str::from_utf8(bytes).map_err(|_| Error::NameNotUtf8)?,
                (2, Value::Bytes(locality)) => {
                    self.count()?;
                    add_locality(&mut load, locality)?;
                }
                (3, Value::Number(dropped)) => load.dropped = dropped,
                (5, Value::Bytes(category)) => {
                    self.count()?;
                    fields(category, |tag, value| {
                        if let (2, Value::Number(dropped)) = (tag, value) {
                            by_category = by_category.saturating_add(dropped);
                        }
                        Ok(())
                    })?;
                }
                _ => {}
            }
            Ok(())
        })?;

        // The total should include the categories.
        load.dropped = load.dropped.max(by_category);
        Ok((name, load))
    }

    fn count(&mut self) -> Result<(), Error> {
        self.entries += 1;
        if self.entries <= ENTRIES_MAX {
            return Ok(());
        }
        Err(Error::TooMuch {
            has: "the load report has more than",
            found: ENTRIES_MAX,
            unit: "clusters, localities and drop categories",
            max: ENTRIES_MAX,
        })
    }
}

/// Add an `UpstreamLocalityStats`.
fn add_locality(load: &mut Load, locality: &[u8]) -> Result<(), Error> {
    fields(locality, |tag, value| {
        let Value::Number(number) = value else { return Ok(()) };
        let sum = match tag {
            2 => &mut load.successful,
            3 => &mut load.in_progress,
            4 => &mut load.error,
            8 => &mut load.issued,
            _ => return Ok(()),
        };
        *sum = sum.saturating_add(number);
        Ok(())
    })
}

/// Call `on` with each field of a message.
fn fields<'a>(mut message: &'a [u8], mut on: impl FnMut(u32, Value<'a>) -> Result<(), Error>) -> Result<(), Error> {
    let malformed = |error: DecodeError| Error::Malformed(error.to_string());
    while !message.is_empty() {
        let (tag, wire_type) = decode_key(&mut message).map_err(malformed)?;
        let value = match wire_type {
            WireType::Varint => Value::Number(decode_varint(&mut message).map_err(malformed)?),
            WireType::LengthDelimited => {
                let len = decode_varint(&mut message).map_err(malformed)?;
                let split = usize::try_from(len).ok().and_then(|len| message.split_at_checked(len));
                let Some((value, rest)) = split else {
                    return Err(Error::Malformed("a field is longer than its message".to_owned()));
                };
                message = rest;
                Value::Bytes(value)
            }
            _ => {
                skip_field(wire_type, tag, &mut message, DecodeContext::default()).map_err(malformed)?;
                Value::Other
            }
        };
        on(tag, value)?;
    }

    Ok(())
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::{Locality, Node};
    use envoy_types::pb::envoy::config::endpoint::v3::cluster_stats::DroppedRequests;
    use envoy_types::pb::envoy::config::endpoint::v3::{ClusterStats, UpstreamLocalityStats};
    use envoy_types::pb::envoy::service::load_stats::v3::LoadStatsRequest;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    fn locality(count: u64) -> UpstreamLocalityStats {
        UpstreamLocalityStats {
            locality: Some(Locality::default()),
            total_issued_requests: 10 * count,
            total_successful_requests: 7 * count,
            total_error_requests: 2 * count,
            total_requests_in_progress: count,
            ..UpstreamLocalityStats::default()
        }
    }

    fn dropped(category: &str, dropped_count: u64) -> DroppedRequests {
        DroppedRequests {
            category: category.to_owned(),
            dropped_count,
        }
    }

    fn bytes(cluster_stats: Vec<ClusterStats>) -> Bytes {
        let node = Some(Node {
            id: "n".to_owned(),
            ..Node::default()
        });
        LoadStatsRequest { node, cluster_stats }.encode_to_vec().into()
    }

    #[test]
    fn localities_and_drops_add_up() {
        let stats = ClusterStats {
            cluster_name: "a".to_owned(),
            upstream_locality_stats: vec![locality(1), locality(2)],
            total_dropped_requests: 3,
            dropped_requests: vec![dropped("lb", 4), dropped("throttle", 1)],
            ..ClusterStats::default()
        };
        let more = ClusterStats {
            total_dropped_requests: 9,
            ..stats.clone()
        };
        let request = bytes(vec![stats, more]);
        let report = Report::read(&request).unwrap();
        let load = Load {
            issued: 30,
            successful: 21,
            error: 6,
            dropped: 5,
            in_progress: 3,
        };
        assert_eq!(report.clusters, [("a", load), ("a", Load { dropped: 9, ..load })]);
        assert_eq!(report.node, Some(&b"\x0a\x01n"[..]));
    }

    #[test]
    fn entries_are_counted_at_every_depth() {
        let inside = |tag: u8, count: usize| {
            let inner = [tag << 3 | 2, 0].repeat(count);
            let mut request = Vec::new();
            crate::proto::message::append(&mut request, 2, &inner);
            Bytes::from(request)
        };
        assert!(Report::read(&inside(2, ENTRIES_MAX - 1)).is_ok());
        for request in [
            Bytes::from([2 << 3 | 2, 0].repeat(ENTRIES_MAX + 1)),
            inside(2, ENTRIES_MAX),
            inside(5, ENTRIES_MAX),
        ] {
            assert!(matches!(Report::read(&request), Err(Error::TooMuch { .. })));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn rubbish_is_read_or_refused(rubbish in prop::collection::vec(any::<u8>(), 0..200)) {
            let request = Bytes::from(rubbish);
            if LoadStatsRequest::decode(request.clone()).is_ok() {
                prop_assert!(Report::read(&request).is_ok());
            }
        }
    }
}
