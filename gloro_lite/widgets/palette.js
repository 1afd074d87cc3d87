// The colours of classes, of bottom and of attacks. What follows the equals sign is JSON: gloro_lite/palette.py reads it too.

export const palette = {
  "classes": ["#1268A9", "#D08005", "#17A275", "#CA77A5", "#3B96CD", "#BA4A00", "#959542", "#332288", "#720944", "#087738"],
  "names": ["blue", "orange", "green", "pink", "sky", "rust", "olive", "indigo", "wine", "moss"],
  "bottom": "#686868",
  "attack": "#BA4A00"
};
