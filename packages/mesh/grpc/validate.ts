import type { DescMessage, MessageShape } from '@bufbuild/protobuf';
import { createValidator, type Validator } from '@bufbuild/protovalidate';
import { MeshError } from '../errors.js';

/** Rules are compiled once per message type and kept; there is nothing to configure. */
let validator: Validator | undefined;

/**
 * Checks a message against the rules in the contract.
 *
 * @throws MeshError `invalid_argument` naming every field that breaks a rule, by its path in the contract.
 */
export function validate<Desc extends DescMessage>(schema: Desc, message: MessageShape<Desc>): void {
  validator ??= createValidator();
  const result = validator.validate(schema, message);
  if (result.kind === 'valid') return;
  if (result.kind === 'error') throw result.error;
  throw new MeshError('invalid_argument', result.violations.map((violation) => violation.toString()).join('; '));
}
