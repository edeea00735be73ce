import { defaultDevice, init, jit, nn, numpy as np, tree, valueAndGrad } from '@jax-js/jax';

type Layer = { readonly w: np.Array; readonly b: np.Array };

function filled(length: number): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length }, (_, i) => Math.sin(i * 12.9898) * 0.05);
}

/** Mean cross-entropy of a dense network. */
function loss(layers: Layer[], x: np.Array, y: np.Array): np.Array {
  let h = x;
  for (const [i, { w, b }] of layers.entries()) {
    h = np.dot(h, w).add(b);
    if (i < layers.length - 1) h = nn.relu(h);
  }
  return nn
    .logSoftmax(h)
    .mul(y)
    .sum()
    .mul(-1 / BATCH);
}

function step(layers: Layer[], x: np.Array, y: np.Array): [np.Array, Layer[]] {
  const [value, gradients] = valueAndGrad(loss)(tree.ref(layers), x, y);
  const moved = layers.map(({ w, b }, i): Layer => {
    const g = gradients[i];
    if (!g) throw new Error('a layer without gradients');
    return { w: w.sub(g.w.mul(RATE)), b: b.sub(g.b.mul(RATE)) };
  });
  return [value, moved];
}

const BATCH = 32;
const RATE = 0.01;
const SIZES = [784, 256, 128, 10];
const [WARM_UP, STEPS] = [5, 100];

/** Milliseconds of each step of the dense network with jax-js on WebAssembly, compiled by its `jit`. */
export async function jaxJsStepMs(): Promise<number[]> {
  await init('wasm');
  defaultDevice('wasm');
  let layers = SIZES.slice(1).map((out, i): Layer => {
    const size = SIZES[i] ?? 1;
    return { w: np.array(filled(size * out)).reshape([size, out]), b: np.zeros([out]) };
  });
  const x = np.array(filled(BATCH * 784)).reshape([BATCH, 784]);
  const classes = Int32Array.from({ length: BATCH }, (_, i) => i % 10);
  const y = nn.oneHot(np.array(classes, { dtype: np.int32 }), 10);
  const compiled = jit(step);
  const times: number[] = [];
  for (let i = 0; i < WARM_UP + STEPS; i++) {
    const startedAt = performance.now();
    const [value, moved] = compiled(layers, x.ref, y.ref);
    layers = moved;
    await value.data();
    if (i >= WARM_UP) times.push(performance.now() - startedAt);
  }
  return times;
}
