//! `ext_proc`.

use envoy_types::pb::envoy::config::common::mutation_rules::v3::HeaderMutationRules;
use envoy_types::pb::envoy::config::core::v3::GrpcService;
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::external_processor::RouteCacheAction;
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::{BodySendMode, HeaderSendMode};
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::{ExternalProcessor, ProcessingMode};

use super::service::grpc;
use crate::document::policy::ext_proc::{BodyMode, ExtProc};
use crate::proto::message::{boolean, duration};

pub(super) fn filter(processor: &ExtProc) -> ExternalProcessor {
    let (request, response) = (processor.request, processor.response);
    let headers = |is_sent| match is_sent {
        true => HeaderSendMode::Send as i32,
        false => HeaderSendMode::Skip as i32,
    };
    let body = |mode| match mode {
        BodyMode::None => BodySendMode::None as i32,
        BodyMode::Streamed => BodySendMode::Streamed as i32,
        BodyMode::Buffered => BodySendMode::Buffered as i32,
    };
    ExternalProcessor {
        grpc_service: Some(GrpcService {
            // A stream lives as long as its request; each message has its own time.
            timeout: None,
            ..grpc(&processor.service, processor.timeout)
        }),
        failure_mode_allow: processor.allows_on_error,
        processing_mode: Some(ProcessingMode {
            request_header_mode: headers(request.headers),
            response_header_mode: headers(response.headers),
            request_body_mode: body(request.body),
            response_body_mode: body(response.body),
            request_trailer_mode: headers(request.trailers),
            response_trailer_mode: headers(response.trailers),
        }),
        request_attributes: processor.attributes.clone(),
        message_timeout: Some(duration(processor.timeout)),
        // Neither the route nor Envoy's own headers are the service's to choose.
        mutation_rules: Some(HeaderMutationRules {
            allow_all_routing: Some(boolean(false)),
            allow_envoy: Some(boolean(false)),
            disallow_system: Some(boolean(true)),
            ..HeaderMutationRules::default()
        }),
        route_cache_action: RouteCacheAction::Retain as i32,
        ..ExternalProcessor::default()
    }
}
