//! `grpc_json`.

use envoy_types::pb::envoy::extensions::filters::http::grpc_json_transcoder::v3::GrpcJsonTranscoder;
use envoy_types::pb::envoy::extensions::filters::http::grpc_json_transcoder::v3::grpc_json_transcoder::{
    DescriptorSet, PrintOptions, RequestValidationOptions,
};

use crate::document::policy::grpc_json::GrpcJson;
use crate::proto::message::uint32;

pub(super) fn filter(json: &GrpcJson) -> GrpcJsonTranscoder {
    GrpcJsonTranscoder {
        descriptor_set: Some(DescriptorSet::ProtoDescriptorBin(json.descriptor.to_vec())),
        services: json.services.clone(),
        print_options: Some(PrintOptions {
            add_whitespace: json.print.whitespace,
            always_print_primitive_fields: json.print.defaults,
            always_print_enums_as_ints: json.print.enum_numbers,
            preserve_proto_field_names: json.print.proto_names,
            ..PrintOptions::default()
        }),
        match_incoming_request_route: true,
        convert_grpc_status: json.status_to_json,
        ignore_unknown_query_parameters: json.ignores_unknown_query,
        request_validation_options: Some(RequestValidationOptions {
            reject_unknown_query_parameters: !json.ignores_unknown_query,
            ..RequestValidationOptions::default()
        }),
        max_request_body_size: json.max_body.map(uint32),
        ..GrpcJsonTranscoder::default()
    }
}
