import {
  createRegistry,
  type DescFile,
  type DescService,
  type Message,
  type Registry,
  toBinary,
} from '@bufbuild/protobuf';
import { nestedTypes } from '@bufbuild/protobuf/reflect';
import { FileDescriptorProtoSchema } from '@bufbuild/protobuf/wkt';
import { grpcCode, MeshError, toMeshError } from '../errors.js';
import type { BidiCall } from './bidi.js';
import { type FieldType, field, serviceOf } from './descriptors.js';

/** The published contract, the same under both names: newer clients ask for v1, most of those around for v1alpha. */
export const REFLECTION_SERVICES = ['grpc.reflection.v1', 'grpc.reflection.v1alpha'].map(reflectionService);

type Question =
  | { case: 'fileByFilename' | 'fileContainingSymbol' | 'allExtensionNumbersOfType' | 'listServices'; value: string }
  | { case: 'fileContainingExtension'; value: { containingType: string; extensionNumber: number } }
  | { case: undefined };

/** A question of a tool, as decoded. */
export type ReflectionRequest = Message & { host: string; messageRequest: Question };

/** Describes services to tools such as grpcurl, from the descriptors in the generated code. */
export class Reflection {
  readonly #services: DescService[] = [];
  readonly #files = new Map<string, DescFile>();
  #types: Registry = createRegistry();

  add(service: DescService): void {
    this.#services.push(service);
    for (const file of closure(service.file)) this.#files.set(`${file.name}.proto`, file);
    this.#types = createRegistry(...this.#files.values());
  }

  /** For each of {@link REFLECTION_SERVICES}. */
  readonly handlers = {
    serverReflectionInfo: (call: BidiCall<ReflectionRequest, Record<string, unknown>>) => {
      call.onDrain(() => call.resume());
      call.onMessage((request) => {
        if (!call.write(this.answer(request))) call.pause();
      });
    },
  };

  /** The answer to one question, errors included. */
  answer(request: ReflectionRequest): Record<string, unknown> {
    return { validHost: request.host, originalRequest: request, messageResponse: this.#answer(request) };
  }

  #answer({ messageRequest: question }: ReflectionRequest): { case: string; value: unknown } {
    try {
      switch (question.case) {
        case 'listServices':
          return {
            case: 'listServicesResponse',
            value: { service: this.#services.map(({ typeName }) => ({ name: typeName })) },
          };
        case 'fileByFilename':
          return files(this.#files.get(question.value), question.value);
        case 'fileContainingSymbol':
          return files(this.#fileOf(question.value), question.value);
        case 'fileContainingExtension': {
          const { containingType, extensionNumber } = question.value;
          const extendee = this.#types.getMessage(containingType);
          const extension = extendee && this.#types.getExtensionFor(extendee, extensionNumber);
          return files(extension?.file, `extension ${extensionNumber} of ${containingType}`);
        }
        case 'allExtensionNumbersOfType':
          return { case: 'allExtensionNumbersResponse', value: this.#extensionsOf(question.value) };
        default:
          throw new MeshError('unimplemented', 'no such question');
      }
    } catch (error) {
      const { kind, message } = toMeshError(error);
      return { case: 'errorResponse', value: { errorCode: grpcCode(kind), errorMessage: message } };
    }
  }

  /** Where a type, service, method, field, enum value or extension is declared: members belong to what contains them. */
  #fileOf(symbol: string): DescFile | undefined {
    return (
      this.#types.get(symbol)?.file ?? this.#types.get(symbol.slice(0, Math.max(0, symbol.lastIndexOf('.'))))?.file
    );
  }

  #extensionsOf(typeName: string): { baseTypeName: string; extensionNumber: number[] } {
    if (!this.#types.getMessage(typeName)) throw new MeshError('not_found', `${typeName} is not known here`);
    const numbers = [...this.#files.values()]
      .flatMap((file) => [...nestedTypes(file)])
      .flatMap((type) => (type.kind === 'extension' && type.extendee.typeName === typeName ? [type.number] : []));
    return { baseTypeName: typeName, extensionNumber: numbers };
  }
}

/** A file with everything that it imports, so that a client need not ask again. */
function files(file: DescFile | undefined, wanted: string): { case: string; value: unknown } {
  if (!file) throw new MeshError('not_found', `${wanted} is not known here`);
  const encoded = [...closure(file)].map(({ proto }) => toBinary(FileDescriptorProtoSchema, proto));
  return { case: 'fileDescriptorResponse', value: { fileDescriptorProto: encoded } };
}

function closure(file: DescFile, seen = new Set<DescFile>()): Set<DescFile> {
  if (seen.has(file)) return seen;
  seen.add(file);
  for (const dependency of file.dependencies) closure(dependency, seen);
  return seen;
}

function reflectionService(name: string): DescService {
  const own = (type: string): FieldType => `.${name}.${type}`;
  const inOneof = { inOneof: true };
  return serviceOf({
    name: `${name.replaceAll('.', '/')}/reflection.proto`,
    package: name,
    messageType: [
      {
        name: 'ServerReflectionRequest',
        field: [
          field('host', 1, 'string'),
          field('file_by_filename', 3, 'string', inOneof),
          field('file_containing_symbol', 4, 'string', inOneof),
          field('file_containing_extension', 5, own('ExtensionRequest'), inOneof),
          field('all_extension_numbers_of_type', 6, 'string', inOneof),
          field('list_services', 7, 'string', inOneof),
        ],
        oneofDecl: [{ name: 'message_request' }],
      },
      {
        name: 'ServerReflectionResponse',
        field: [
          field('valid_host', 1, 'string'),
          field('original_request', 2, own('ServerReflectionRequest')),
          field('file_descriptor_response', 4, own('FileDescriptorResponse'), inOneof),
          field('all_extension_numbers_response', 5, own('ExtensionNumberResponse'), inOneof),
          field('list_services_response', 6, own('ListServiceResponse'), inOneof),
          field('error_response', 7, own('ErrorResponse'), inOneof),
        ],
        oneofDecl: [{ name: 'message_response' }],
      },
      {
        name: 'ExtensionRequest',
        field: [field('containing_type', 1, 'string'), field('extension_number', 2, 'int32')],
      },
      { name: 'FileDescriptorResponse', field: [field('file_descriptor_proto', 1, 'bytes', { repeated: true })] },
      {
        name: 'ExtensionNumberResponse',
        field: [field('base_type_name', 1, 'string'), field('extension_number', 2, 'int32', { repeated: true })],
      },
      { name: 'ListServiceResponse', field: [field('service', 1, own('ServiceResponse'), { repeated: true })] },
      { name: 'ServiceResponse', field: [field('name', 1, 'string')] },
      { name: 'ErrorResponse', field: [field('error_code', 1, 'int32'), field('error_message', 2, 'string')] },
    ],
    service: [
      {
        name: 'ServerReflection',
        method: [
          {
            name: 'ServerReflectionInfo',
            inputType: own('ServerReflectionRequest'),
            outputType: own('ServerReflectionResponse'),
            clientStreaming: true,
            serverStreaming: true,
          },
        ],
      },
    ],
  });
}
