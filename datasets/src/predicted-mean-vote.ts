/** What a person's thermal comfort depends on. */
export interface ThermalConditions {
  /** Air temperature, °C. */
  readonly airTemperature: number;
  /** Mean radiant temperature, °C. */
  readonly radiantTemperature: number;
  /** Relative air velocity, m/s. */
  readonly airVelocity: number;
  /** Relative humidity, %. */
  readonly humidity: number;
  /** Metabolic rate, met. */
  readonly metabolicRate: number;
  /** Clothing insulation, clo. */
  readonly clothing: number;
}

const WATTS_PER_MET = 58.15;
const CLO_IN_M2K_PER_W = 0.155;
const TOLERANCE = 0.000_15;

/** Clothing surface temperature: the heat balance of the clothing, solved by damped iteration. */
function clothingTemperature(c: ThermalConditions, heat: number): { celsius: number; h: number } {
  const insulation = CLO_IN_M2K_PER_W * c.clothing;
  const area = insulation <= 0.078 ? 1 + 1.29 * insulation : 1.05 + 0.645 * insulation;
  const forced = 12.1 * Math.sqrt(c.airVelocity);
  const air = c.airTemperature + 273;
  const radiant = c.radiantTemperature + 273;
  const p1 = insulation * area;
  const p2 = p1 * 3.96;
  const p3 = p1 * 100;
  const p4 = p1 * air;
  const p5 = 308.7 - 0.028 * heat + p2 * (radiant / 100) ** 4;
  let next = (air + (35.5 - c.airTemperature) / (3.5 * (6.45 * insulation + 0.1))) / 100;
  let last = next / 2;
  let h = forced;
  for (let step = 0; step < 150 && Math.abs(next - last) > TOLERANCE; step++) {
    last = (last + next) / 2;
    const free = 2.38 * Math.abs(100 * last - air) ** 0.25;
    h = Math.max(forced, free);
    next = (p5 + p4 * h - p2 * last ** 4) / (100 + p3 * h);
  }
  return { celsius: 100 * next - 273, h };
}

/**
 * Predicted mean vote on the scale from −3 (cold) to 3 (hot): ISO 7730:2005, eqs. 1–4, for no
 * external work. No package of it is on npm, so it is written out here and held against the table
 * of the standard's Annex D.
 */
export function predictedMeanVote(c: ThermalConditions): number {
  const vapour = c.humidity * 10 * Math.exp(16.6536 - 4030.183 / (c.airTemperature + 235));
  const heat = c.metabolicRate * WATTS_PER_MET;
  const { celsius, h } = clothingTemperature(c, heat);
  const insulation = CLO_IN_M2K_PER_W * c.clothing;
  const area = insulation <= 0.078 ? 1 + 1.29 * insulation : 1.05 + 0.645 * insulation;
  const skin = 3.05e-3 * (5733 - 6.99 * heat - vapour);
  const sweat = heat > WATTS_PER_MET ? 0.42 * (heat - WATTS_PER_MET) : 0;
  const latent = 1.7e-5 * heat * (5867 - vapour);
  const dry = 0.0014 * heat * (34 - c.airTemperature);
  const radiation =
    3.96 * area * (((celsius + 273) / 100) ** 4 - ((c.radiantTemperature + 273) / 100) ** 4);
  const convection = area * h * (celsius - c.airTemperature);
  const sensitivity = 0.303 * Math.exp(-0.036 * heat) + 0.028;
  return sensitivity * (heat - skin - sweat - latent - dry - radiation - convection);
}
