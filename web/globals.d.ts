// The pages load their libraries as classic scripts: their module builds have bare imports, which only an inline import map
// could resolve, and the page's content security policy allows no inline script. Leaflet's own types declare its global.
declare const protomapsL: typeof import("protomaps-leaflet");
declare const uPlot: typeof import("uplot");
