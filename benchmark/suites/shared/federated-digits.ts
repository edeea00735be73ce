import type { FederatedBase, ModuleContext } from '@shoal/benchmark';
import { digitNetwork } from './networks.ts';

/** The network everyone starts from. */
export function federatedDigits(
  { size = 'small' }: { readonly size?: string },
  { seed }: ModuleContext,
): FederatedBase {
  return { model: digitNetwork(size, seed) };
}
