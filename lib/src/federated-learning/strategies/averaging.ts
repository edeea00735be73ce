import { squaredNorm } from '../kernels.ts';
import {
  type MeanRule,
  plainStep,
  readParameters,
  type Strategy,
  type StrategyParameters,
  sampleMean,
  stateVector,
} from '../strategy.ts';

const MANY = 1e9;

/** FedAvg (McMahan et al. 2017, arXiv 1602.05629, algorithm 1): w ← w + Σ n_k Δ_k / Σ n_k. */
export function fedAvg(parameters: StrategyParameters): Strategy {
  readParameters('FedAvg', parameters, {});
  return { name: 'FedAvg', local: {}, rule: sampleMean, step: plainStep };
}

/** FedProx (Li et al. 2020, arXiv 1812.06127, eq. 2): participants minimize F_k(w) + μ/2‖w − w_t‖². */
export function fedProx(parameters: StrategyParameters): Strategy {
  const { mu } = readParameters('FedProx', parameters, {
    mu: { fallback: 0.01, min: 0, max: MANY },
  });
  return { name: 'FedProx', local: { proximal: mu }, rule: sampleMean, step: plainStep };
}

/**
 * FedAvgM (Hsu et al. 2019, arXiv 1909.06335): v ← βv + Δ,  w ← w + ηv.
 * The paper subtracts a pseudo-gradient; our Δ points downhill already.
 */
export function fedAvgM(parameters: StrategyParameters): Strategy {
  const { momentum, learningRate } = readParameters('FedAvgM', parameters, {
    momentum: { fallback: 0.9, min: 0, max: 0.9999 },
    learningRate: { fallback: 1, min: 0, max: MANY },
  });
  return {
    name: 'FedAvgM',
    local: {},
    rule: sampleMean,
    step: (model, change, { state }) => {
      const v = stateVector(state, 'velocity', model.length);
      for (let i = 0; i < model.length; i++) {
        v[i] = momentum * (v[i] ?? 0) + (change[i] ?? 0);
        model[i] = (model[i] ?? 0) + learningRate * (v[i] ?? 0);
      }
    },
  };
}

/** How the second moment follows the square of the change. */
type SecondMoment = (v: number, square: number, beta2: number) => number;

const SECOND_MOMENTS: Readonly<Record<'FedAdagrad' | 'FedAdam' | 'FedYogi', SecondMoment>> = {
  FedAdagrad: (v, square) => v + square,
  FedAdam: (v, square, beta2) => beta2 * v + (1 - beta2) * square,
  FedYogi: (v, square, beta2) => v - (1 - beta2) * square * Math.sign(v - square),
};

/**
 * FedOpt (Reddi et al. 2021, arXiv 2003.00295, algorithm 2): m ← β₁m + (1 − β₁)Δ, v by Adagrad,
 * Adam or Yogi from Δ², w ← w + η·m/(√v + τ). As in the paper v starts at τ² and there is no bias
 * correction (Flower adds one and starts at 0).
 */
export function fedOpt(
  name: 'FedAdagrad' | 'FedAdam' | 'FedYogi',
  parameters: StrategyParameters,
): Strategy {
  const { learningRate, beta1, beta2, tau } = readParameters(name, parameters, {
    learningRate: { fallback: 0.1, min: 0, max: MANY },
    beta1: { fallback: name === 'FedAdagrad' ? 0 : 0.9, min: 0, max: 0.9999 },
    beta2: { fallback: 0.99, min: 0, max: 0.99999 },
    tau: { fallback: 1e-3, min: 1e-12, max: 1 },
  });
  const second = SECOND_MOMENTS[name];
  return {
    name,
    local: {},
    rule: sampleMean,
    step: (model, change, { state }) => {
      const m = stateVector(state, 'm', model.length);
      const v = stateVector(state, 'v', model.length, tau * tau);
      for (let i = 0; i < model.length; i++) {
        const d = change[i] ?? 0;
        m[i] = beta1 * (m[i] ?? 0) + (1 - beta1) * d;
        v[i] = second(v[i] ?? 0, d * d, beta2);
        model[i] = (model[i] ?? 0) + (learningRate * (m[i] ?? 0)) / (Math.sqrt(v[i] ?? 0) + tau);
      }
    },
  };
}

/** Each update counts the same: Σ Δ_k / n. */
const plainMean: MeanRule = {
  kind: 'mean',
  weight: () => 1,
  scale: (updates) => 1 / updates.length,
};

/**
 * SCAFFOLD (Karimireddy et al. 2020, arXiv 1910.06378, algorithm 1, option II): local steps
 * y ← y − η_l(g − c_k + c); afterwards c_k⁺ = c_k − c + (w_t − y)/(K·η_l). The server takes the
 * plain mean of Δ_k with step η_g, and c ← c + |S|/N · mean(c_k⁺ − c_k). Model and control variate
 * travel as one vector of 2d values: the first half moves by η_g, the second by |S|/N.
 */
export function scaffold(parameters: StrategyParameters): Strategy {
  const { learningRate, participation } = readParameters('SCAFFOLD', parameters, {
    learningRate: { fallback: 1, min: 0, max: MANY },
    participation: { fallback: 1, min: 0, max: 1 },
  });
  return {
    name: 'SCAFFOLD',
    local: { controlVariates: true },
    rule: plainMean,
    step: (model, change) => {
      const half = model.length / 2;
      for (let i = 0; i < model.length; i++) {
        const rate = i < half ? learningRate : participation;
        model[i] = (model[i] ?? 0) + rate * (change[i] ?? 0);
      }
    },
  };
}

/**
 * q-FedAvg (Li et al. 2020, "Fair Resource Allocation in Federated Learning", algorithm 2), with
 * L = 1/η_l and F_k the loss at w_t:
 * w ← w + Σ F_k^q·L·Δ_k / Σ (q·F_k^{q−1}·L²‖Δ_k‖² + L·F_k^q).
 */
export function qFedAvg(parameters: StrategyParameters): Strategy {
  const { q, learningRate } = readParameters('q-FedAvg', parameters, {
    q: { fallback: 0.1, min: 0, max: 100 },
    learningRate: { fallback: 0.1, min: 1e-9, max: MANY },
  });
  const lipschitz = 1 / learningRate;
  const lossOf = (metrics: Readonly<Record<string, number>>): number =>
    Math.max(1e-10, metrics['loss'] ?? 1);
  return {
    name: 'q-FedAvg',
    local: {},
    rule: {
      kind: 'mean',
      usesNorms: true,
      weight: (u) => lossOf(u.metrics) ** q * lipschitz,
      scale: (updates) => {
        const total = updates.reduce((sum, u) => {
          const loss = lossOf(u.metrics);
          return sum + q * loss ** (q - 1) * lipschitz ** 2 * u.squaredNorm + lipschitz * loss ** q;
        }, 0);
        return 1 / total;
      },
    },
    step: plainStep,
  };
}

/**
 * Ditto (Li et al. 2021, arXiv 2012.04221, algorithm 1): the shared model as in FedAvg; beside it
 * each participant keeps a personal one, min F_k(v) + λ/2‖v − w‖².
 */
export function ditto(parameters: StrategyParameters): Strategy {
  const { lambda } = readParameters('Ditto', parameters, {
    lambda: { fallback: 0.1, min: 0, max: MANY },
  });
  return { name: 'Ditto', local: { personal: lambda }, rule: sampleMean, step: plainStep };
}

/**
 * FedBuff (Nguyen et al. 2022, arXiv 2106.06639, algorithm 1): the server steps once K updates are
 * in, whoever sent them; one that started τ rounds ago counts 1/√(1 + τ). Staleness travels in the
 * metric `staleness`.
 */
export function fedBuff(parameters: StrategyParameters): Strategy {
  const { learningRate, bufferSize } = readParameters('FedBuff', parameters, {
    learningRate: { fallback: 1, min: 0, max: MANY },
    bufferSize: { fallback: 10, min: 1, max: MANY },
  });
  return {
    name: 'FedBuff',
    local: {},
    bufferSize: Math.round(bufferSize),
    rule: {
      kind: 'mean',
      weight: (u) => 1 / Math.sqrt(1 + Math.max(0, u.metrics['staleness'] ?? 0)),
      scale: (updates) => learningRate / updates.length,
    },
    step: plainStep,
  };
}

/** Largest norm of a change that counts in full (norm bounding, Sun et al. 2019, arXiv 1911.07963, §4). */
export function normBounded(parameters: StrategyParameters): Strategy {
  const { bound } = readParameters('NormBounding', parameters, {
    bound: { fallback: 1, min: 1e-12, max: MANY },
  });
  return {
    name: 'NormBounding',
    local: {},
    rule: {
      ...plainMean,
      weight: (u) => Math.min(1, bound / Math.max(1e-300, Math.sqrt(squaredNorm(u.delta)))),
    },
    step: plainStep,
  };
}
