//! The faults of the wrong server, and the rules that must find each of them.

/// One way to be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// An empty EDS list subscribes to everything.
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
    /// A cluster is removed before the ACK of the routes that no longer use it.
    ClusterRemovedBeforeRouteAck,
    /// The names in a request with an old nonce are not read.
    StaleNonceNamesIgnored,
    /// A request with an old nonce is answered with everything.
    StaleNonceAnswered,
    /// A NACK is recognized by its version, not by `error_detail`.
    NackByVersion,
    /// A refused resource is sent again at once.
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
    /// A SotW response of clusters or listeners has only the changed resources.
    OnlyWhatChanged,
    /// The removal of the last cluster is not sent.
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
    /// Unsubscribed resources are still sent.
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
    /// Listeners are sent to clients without a subscription to them.
    UnrequestedType,
    /// An unknown type gets no answer, in delta neither.
    UnknownTypeSilent,
    /// An unknown type ends the stream.
    UnknownTypeEndsStream,
    /// The `Any`s have another type than the response.
    WrongAnyType,
    /// A response has no type.
    NoTypeUrl,
    /// A response has the same resource twice.
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
    /// Another node id in the midst of a stream is taken.
    OtherNodeAccepted,
    /// Later node metadata is ignored.
    OtherMetadataIgnored,
    /// A request without a type on ADS is passed over.
    NoTypeAccepted,
    /// A service of one type answers for any.
    ServiceTakesAnyType,
    /// There is ADS and no other service.
    NoServices,
    /// A stream without a message in the first five seconds is ended.
    FirstMessageDeadline,
    /// The wrapper of a delta resource has another name than the resource.
    WrongWrapperName,
    /// After a NACK the server assumes that the client holds the last accepted resources.
    AcceptedTakenForHeld,
    /// A request has 4 MB at most.
    SmallRequests,
    /// A list in another order, or with a name twice, is another list.
    NamesAreAList,
    /// Names are never answered.
    NamesSilent,
    /// An empty first list is no wildcard.
    NoLegacyWildcard,
    /// Names beside a wildcard count for nothing.
    WildcardHidesNames,
    /// New names in an ACK wait for the next change.
    AckIsOnlyAnAck,
    /// Asking for less is answered.
    ShrinkingAnswered,
    /// A repeated ACK is answered.
    RepeatedAckAnswered,
    /// A request without a nonce starts the type again.
    EmptyNonceIsFirst,
    /// A client that reconnects with a version is assumed to have all resources.
    ReconnectTrusted,
    /// No other type is sent before clusters or listeners are subscribed.
    ChildrenNeedParents,
    /// Every change becomes a response, even if the transport has no room.
    EveryStateQueued,
    /// SotW resources are wrapped for every client.
    WrapsAlways,
    /// SotW resources that have a time to live are repeated without bodies.
    HeartbeatsInSotw,
    /// A heartbeat never has a body, not even after a NACK.
    HeartbeatAfterNack,
    /// Resources with a time to live get no heartbeats.
    NoHeartbeats,
    /// A refused resource is assumed to be absent in the client.
    RefusedTakenForAbsent,
    /// Virtual hosts have no aliases.
    NoAliases,
    /// A virtual host that does not exist is removed.
    MissingHostRemoved,
    /// A request for virtual hosts without names is not answered.
    EmptyHostRequestSilent,
    /// A subscription by name is treated as a wildcard.
    NamesAreAWildcard,
    /// Endpoints of a new cluster are not pushed before their subscription.
    NewNamesNotPushed,
    /// Routes do not follow a listener that names them by another source.
    NoRoutesAfterListener,
    /// Endpoints do not follow the first clusters of a stream.
    FirstClustersNotFollowed,
    /// Connections are not looked after.
    NoKeepalive,
    /// A response has 4 MB at most.
    SmallResponses,
    /// Messages are marked as compressed.
    MarkedAsCompressed,
    /// A connection has a hundred streams.
    FewStreams,
    /// A node has one stream, for good.
    OneStreamPerNode,
    /// A stream stays open after the client has closed its side.
    HalfCloseIgnored,
    /// Connections grow as old as they like.
    AgeIgnored,
    /// A stream ends after ten seconds.
    StreamsExpire,
    /// The server adds a field to listeners that is not in their document.
    ListenersRewritten,
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
pub(crate) const FAULTS: [Row; 89] = [
    row(Fault::EmptyEndpointListIsWildcard, &["SW-03", "DX-03"]),
    row(Fault::RemovalEndsSubscription, &["DX-26"]),
    row(Fault::MissingNameEndsSubscription, &["SW-13", "DX-07", "AD-14"]),
    row(Fault::NackNamesIgnored, &["GEN-14"]),
    row(Fault::AckWithMissingNameAnswered, &["SW-16"]),
    row(Fault::OneNonce, &["GEN-07"]),
    row(Fault::NoncePerType, &["GEN-07"]),
    row(Fault::ClusterRemovedBeforeRouteAck, &["AD-02"]),
    row(Fault::StaleNonceNamesIgnored, &["DX-11"]),
    row(Fault::StaleNonceAnswered, &["SW-21"]),
    row(Fault::NackByVersion, &["GEN-15"]),
    row(Fault::RefusedSentAgain, &["GEN-16", "SW-23"]),
    row(Fault::NoEndpointsAfterCluster, &["AD-03", "DX-25"]),
    row(Fault::EndpointsBeforeClusters, &["AD-07", "AD-01"]),
    row(Fault::EndpointsWaitForClusterAck, &["AD-03", "AD-06"]),
    row(Fault::ClustersWaitForAck, &["SW-28", "DX-24"]),
    row(Fault::LegacyWildcardAgain, &["SW-08"]),
    row(Fault::OnlyWhatChanged, &["SW-09"]),
    row(Fault::LastDeletionSilent, &["SW-11"]),
    row(Fault::EmptyResponseOnDeletion, &["SW-12"]),
    row(Fault::RemovedMissing, &["DX-18"]),
    row(Fault::MissingNameSilent, &["DX-07", "AD-11"]),
    row(Fault::WaitsForMissingNames, &["SW-14"]),
    row(Fault::ResubscribeSilent, &["DX-06"]),
    row(Fault::UnsubscribeUnderWildcardSilent, &["DX-09"]),
    row(Fault::UnsubscribedStillSent, &["SW-07", "DX-04"]),
    row(Fault::ReaddedNameSilent, &["SW-18"]),
    row(Fault::InitIgnored, &["DX-13", "DX-14"]),
    row(Fault::InitAlwaysRead, &["DX-12"]),
    row(Fault::InitOfEndpointsHonoured, &["DX-15"]),
    row(Fault::FirstUnsubscribeIsWildcard, &["DX-01"]),
    row(Fault::UnsubscribeFirst, &["DX-05"]),
    row(Fault::VersionsOfTheStream, &["DX-13", "GEN-08", "DX-16"]),
    row(Fault::WholeDelta, &["DX-17"]),
    row(Fault::EmptyResponseToAck, &["SW-15", "DX-22"]),
    row(Fault::EmptyWildcardSilent, &["SW-04", "DX-02"]),
    row(Fault::StarIsAName, &["SW-05"]),
    row(Fault::UnrequestedType, &["GEN-23"]),
    row(Fault::UnknownTypeSilent, &["GEN-05"]),
    row(Fault::UnknownTypeEndsStream, &["GEN-05"]),
    row(Fault::WrongAnyType, &["GEN-12"]),
    row(Fault::NoTypeUrl, &["GEN-12", "GEN-06"]),
    row(Fault::DuplicateNames, &["GEN-11"]),
    row(Fault::NoControlPlane, &["GEN-09"]),
    row(Fault::NodeInEveryRequest, &["GEN-01"]),
    row(Fault::NoNodeAccepted, &["GEN-02"]),
    row(Fault::NackSilencesAll, &["GEN-21", "AD-10"]),
    row(Fault::MissingEndpointsSilent, &["SW-26"]),
    row(Fault::OtherNodeAccepted, &["GEN-03"]),
    row(Fault::OtherMetadataIgnored, &["GEN-03"]),
    row(Fault::NoTypeAccepted, &["GEN-04"]),
    row(Fault::ServiceTakesAnyType, &["GEN-04", "GR-14"]),
    row(Fault::NoServices, &["GEN-04", "GR-14"]),
    row(Fault::FirstMessageDeadline, &["GEN-10"]),
    row(Fault::WrongWrapperName, &["GEN-13"]),
    row(Fault::AcceptedTakenForHeld, &["GEN-17"]),
    row(Fault::SmallRequests, &["GEN-19"]),
    row(Fault::NamesAreAList, &["GEN-20"]),
    row(Fault::NamesSilent, &["SW-01", "PX-03"]),
    row(Fault::NoLegacyWildcard, &["SW-02", "DX-01"]),
    row(Fault::WildcardHidesNames, &["SW-06", "DX-26"]),
    row(Fault::AckIsOnlyAnAck, &["SW-17", "DX-10", "PX-02"]),
    row(Fault::ShrinkingAnswered, &["SW-19", "SW-33", "DX-08", "PX-01"]),
    row(Fault::RepeatedAckAnswered, &["SW-20"]),
    row(Fault::EmptyNonceIsFirst, &["SW-22"]),
    row(Fault::ReconnectTrusted, &["SW-24", "SW-25"]),
    row(Fault::ChildrenNeedParents, &["SW-25", "PX-12"]),
    row(Fault::EveryStateQueued, &["SW-27", "GR-06"]),
    row(Fault::WrapsAlways, &["SW-29", "PX-11"]),
    row(Fault::HeartbeatsInSotw, &["SW-30", "SW-31"]),
    row(Fault::HeartbeatAfterNack, &["DX-19"]),
    row(Fault::NoHeartbeats, &["DX-20"]),
    row(Fault::RefusedTakenForAbsent, &["DX-21"]),
    row(Fault::NoAliases, &["DX-28"]),
    row(Fault::MissingHostRemoved, &["DX-29"]),
    row(Fault::EmptyHostRequestSilent, &["DX-30"]),
    row(Fault::NamesAreAWildcard, &["SW-32", "DX-33"]),
    row(Fault::NewNamesNotPushed, &["AD-04"]),
    row(Fault::NoRoutesAfterListener, &["AD-05"]),
    row(Fault::FirstClustersNotFollowed, &["AD-08"]),
    row(Fault::NoKeepalive, &["GR-01"]),
    row(Fault::SmallResponses, &["GR-03"]),
    row(Fault::MarkedAsCompressed, &["GR-04"]),
    row(Fault::FewStreams, &["GR-05"]),
    row(Fault::OneStreamPerNode, &["GR-07"]),
    row(Fault::HalfCloseIgnored, &["GR-09"]),
    row(Fault::AgeIgnored, &["GR-10"]),
    row(Fault::StreamsExpire, &["GR-13"]),
    row(Fault::ListenersRewritten, &["PX-10"]),
];

/// Every MUST that no fault breaks, and why.
pub(crate) const UNBROKEN: [(&str, &str); 7] = [
    (
        "DX-23",
        "the transport of this server takes one response more than it has room for, so it fails without a fault",
    ),
    (
        "GR-02",
        "HTTP/2 answers PINGs below this server, and has no setting that punishes them",
    ),
    ("PX-05", "what documents compile to: this server reads none"),
    ("PX-06", "what documents compile to: this server reads none"),
    ("PX-07", "what documents compile to: this server reads none"),
    ("PX-08", "what documents compile to: this server reads none"),
    ("PX-09", "what documents compile to: this server reads none"),
];
