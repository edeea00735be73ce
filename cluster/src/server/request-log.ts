import { appendFileSync } from 'node:fs';
import type { Logger } from '@shoal/core';
import type { User } from './authenticate.ts';
import type { Attributes } from './authorize.ts';

/**
 * What every identity has asked for, once each: a line of JSON `{user, verb, group, resource}`
 * (`resource` with its subresource). From it one can see which rights a program needs.
 */
export class RequestLog {
  readonly #file: string;
  readonly #logger: Logger;
  readonly #known = new Set<string>();

  constructor(file: string, logger: Logger) {
    this.#file = file;
    this.#logger = logger;
  }

  note({ name: user }: User, { verb, group, resource, subresource }: Attributes): void {
    const full = subresource === '' ? resource : `${resource}/${subresource}`;
    const line = JSON.stringify({ user, verb, group, resource: full });
    if (this.#known.has(line)) return;
    this.#known.add(line);
    try {
      appendFileSync(this.#file, `${line}\n`, { mode: 0o600 });
    } catch (error) {
      this.#logger.warn('cannot note a request', { file: this.#file, error });
    }
  }
}
