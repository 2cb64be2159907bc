//! What the wrong server can do wrong, and the rules that must notice.

/// One way to be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// An empty EDS list asks for everything.
    EmptyEndpointListIsWildcard,
    /// A resource that is removed loses its subscriptions.
    RemovalEndsSubscription,
    /// A name that does not exist is not subscribed to.
    MissingNameEndsSubscription,
    /// The names in a NACK are not read.
    NackNamesIgnored,
    /// An ACK that lists a missing name is answered, which is acknowledged, which is answered.
    AckWithMissingNameAnswered,
    /// Every response has the same nonce.
    OneNonce,
    /// Types count their nonces each for itself.
    NoncePerType,
    /// A cluster goes away before the routes that left it are acknowledged.
    ClusterRemovedBeforeRouteAck,
    /// The names in a request with an old nonce are not read.
    StaleNonceNamesIgnored,
    /// A request with an old nonce is answered with everything.
    StaleNonceAnswered,
    /// A NACK is told by its version, not by its error.
    NackByVersion,
    /// What was refused is sent again at once.
    RefusedSentAgain,
    /// Endpoints do not follow their changed cluster.
    NoEndpointsAfterCluster,
    /// Endpoints go before their clusters.
    EndpointsBeforeClusters,
    /// Endpoints wait until the clusters are acknowledged.
    EndpointsWaitForClusterAck,
    /// Clusters wait until the earlier ones are acknowledged.
    ClustersWaitForAck,
    /// An empty list is a wildcard again after names were listed.
    LegacyWildcardAgain,
    /// A SotW response of clusters or listeners carries only what changed.
    OnlyWhatChanged,
    /// When the last cluster goes, nothing is said.
    LastDeletionSilent,
    /// Deleting endpoints or routes sends an empty response.
    EmptyResponseOnDeletion,
    /// `removed_resources` is never set for a deletion.
    RemovedMissing,
    /// A name that does not exist is not answered.
    MissingNameSilent,
    /// A response waits until every name exists.
    WaitsForMissingNames,
    /// A name that is subscribed to again is not answered.
    ResubscribeSilent,
    /// A name that a wildcard covers is not answered when it is unsubscribed from.
    UnsubscribeUnderWildcardSilent,
    /// What was unsubscribed from is still sent.
    UnsubscribedStillSent,
    /// A name that is listed again after it was dropped is not sent.
    ReaddedNameSilent,
    /// `initial_resource_versions` is not read.
    InitIgnored,
    /// `initial_resource_versions` is read in every request.
    InitAlwaysRead,
    /// Endpoints that `initial_resource_versions` shows as current are not sent.
    InitOfEndpointsHonoured,
    /// A first request that only unsubscribes is a wildcard.
    FirstUnsubscribeIsWildcard,
    /// Unsubscriptions are read before subscriptions.
    UnsubscribeFirst,
    /// Versions differ from stream to stream.
    VersionsOfTheStream,
    /// Every delta carries all that is subscribed to.
    WholeDelta,
    /// An ACK is answered with an empty response.
    EmptyResponseToAck,
    /// Nothing is sent for a wildcard over nothing.
    EmptyWildcardSilent,
    /// `*` is a name like any other.
    StarIsAName,
    /// Listeners are sent to who never asked for them.
    UnrequestedType,
    /// An unknown type gets no answer, in delta neither.
    UnknownTypeSilent,
    /// An unknown type ends the stream.
    UnknownTypeEndsStream,
    /// The `Any`s have another type than the response.
    WrongAnyType,
    /// A response has no type.
    NoTypeUrl,
    /// A resource stands in a response twice.
    DuplicateNames,
    /// No `control_plane`.
    NoControlPlane,
    /// The node is expected in every request.
    NodeInEveryRequest,
    /// A stream without a node is served.
    NoNodeAccepted,
    /// A NACK of one type silences all.
    NackSilencesAll,
    /// Endpoints of a missing name are not answered with none (SotW).
    MissingEndpointsSilent,
}

/// A fault, and the rules that fail with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    /// The fault.
    pub(crate) fault: Fault,
    /// Rule IDs; each must fail with it, and pass without.
    pub(crate) breaks: &'static [&'static str],
}

const fn row(fault: Fault, breaks: &'static [&'static str]) -> Row {
    Row { fault, breaks }
}

/// Every fault.
pub(crate) const FAULTS: [Row; 48] = [
    row(Fault::EmptyEndpointListIsWildcard, &["SW-03", "DX-03"]),
    row(Fault::RemovalEndsSubscription, &["DX-26"]),
    row(Fault::MissingNameEndsSubscription, &["SW-13", "DX-07"]),
    row(Fault::NackNamesIgnored, &["GEN-14"]),
    row(Fault::AckWithMissingNameAnswered, &["SW-16"]),
    row(Fault::OneNonce, &["GEN-07"]),
    row(Fault::NoncePerType, &["GEN-07"]),
    row(Fault::ClusterRemovedBeforeRouteAck, &["AD-02"]),
    row(Fault::StaleNonceNamesIgnored, &["DX-11"]),
    row(Fault::StaleNonceAnswered, &["SW-21"]),
    row(Fault::NackByVersion, &["GEN-15"]),
    row(Fault::RefusedSentAgain, &["GEN-16"]),
    row(Fault::NoEndpointsAfterCluster, &["AD-03", "DX-25"]),
    row(Fault::EndpointsBeforeClusters, &["AD-07"]),
    row(Fault::EndpointsWaitForClusterAck, &["AD-03", "AD-06"]),
    row(Fault::ClustersWaitForAck, &["SW-28", "DX-24"]),
    row(Fault::LegacyWildcardAgain, &["SW-08"]),
    row(Fault::OnlyWhatChanged, &["SW-09"]),
    row(Fault::LastDeletionSilent, &["SW-11"]),
    row(Fault::EmptyResponseOnDeletion, &["SW-12"]),
    row(Fault::RemovedMissing, &["DX-18"]),
    row(Fault::MissingNameSilent, &["DX-07"]),
    row(Fault::WaitsForMissingNames, &["SW-14"]),
    row(Fault::ResubscribeSilent, &["DX-06"]),
    row(Fault::UnsubscribeUnderWildcardSilent, &["DX-09"]),
    row(Fault::UnsubscribedStillSent, &["SW-07", "DX-04"]),
    row(Fault::ReaddedNameSilent, &["SW-18"]),
    row(Fault::InitIgnored, &["DX-13"]),
    row(Fault::InitAlwaysRead, &["DX-12"]),
    row(Fault::InitOfEndpointsHonoured, &["DX-15"]),
    row(Fault::FirstUnsubscribeIsWildcard, &["DX-01"]),
    row(Fault::UnsubscribeFirst, &["DX-05"]),
    row(Fault::VersionsOfTheStream, &["DX-13"]),
    row(Fault::WholeDelta, &["DX-17"]),
    row(Fault::EmptyResponseToAck, &["SW-15", "DX-22"]),
    row(Fault::EmptyWildcardSilent, &["SW-04", "DX-02"]),
    row(Fault::StarIsAName, &["SW-05"]),
    row(Fault::UnrequestedType, &["GEN-23"]),
    row(Fault::UnknownTypeSilent, &["GEN-05"]),
    row(Fault::UnknownTypeEndsStream, &["GEN-05"]),
    row(Fault::WrongAnyType, &["GEN-12"]),
    row(Fault::NoTypeUrl, &["GEN-12"]),
    row(Fault::DuplicateNames, &["GEN-11"]),
    row(Fault::NoControlPlane, &["GEN-09"]),
    row(Fault::NodeInEveryRequest, &["GEN-01"]),
    row(Fault::NoNodeAccepted, &["GEN-02"]),
    row(Fault::NackSilencesAll, &["GEN-21", "AD-10"]),
    row(Fault::MissingEndpointsSilent, &["SW-26"]),
];
