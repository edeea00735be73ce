import type { KubeObject } from '../../kube/kube-api.ts';
import type { StagePosition } from '../../stages/machine.ts';
import { hasEnded, nodeOf } from '../job-nodes.ts';
import { ROUND_LABEL, workerTypeOf } from './pods.ts';

/** Pods of one job, by what they do. */
export class JobPods {
  readonly #own: readonly KubeObject[];
  readonly #prefix: string;

  /** @param prefix Of the labels of the job's kind. */
  constructor(own: readonly KubeObject[], prefix: string) {
    this.#own = own;
    this.#prefix = prefix;
  }

  #typeOf(pod: KubeObject): string | undefined {
    return pod.metadata.labels?.[`${this.#prefix}/worker-type`];
  }

  /** Those that are not being deleted. */
  all(): KubeObject[] {
    return this.#own.filter((p) => !p.metadata.deletionTimestamp);
  }

  of(type: string, round?: number): KubeObject[] {
    return this.all().filter(
      (p) =>
        this.#typeOf(p) === type &&
        (round === undefined || p.metadata.labels?.[ROUND_LABEL] === String(round)),
    );
  }

  /** Those that serve the model, or are about to. */
  serving(): KubeObject[] {
    return this.of('inference').filter((p) => !hasEnded(p));
  }

  /** Nodes of those, in order. */
  servingNodes(): string[] {
    const nodes = this.serving()
      .map(nodeOf)
      .filter((n) => n !== undefined);
    return [...new Set(nodes)].toSorted();
  }

  /** Inference pods that are being deleted: their ports and files are still in use. */
  going(): KubeObject[] {
    return this.#own.filter((p) => p.metadata.deletionTimestamp && this.#typeOf(p) === 'inference');
  }

  /** The pod a stage waits for. */
  ofStage({ stage, round }: StagePosition): KubeObject | undefined {
    return stage === 'Deploy' ? this.serving().at(-1) : this.of(workerTypeOf(stage), round).at(-1);
  }
}
